-- The tables of DevLake that are read, with all of their columns and indexes, so that rows are as long and as hard to find as there. Written after its domain models
-- (apache/incubator-devlake at 420e494, backend/core/models/domainlayer, and core/models/project.go): an index there is on what a model marks so, on _raw_data_params
-- of every table, and on no time.
CREATE TABLE projects (
    name VARCHAR(255), description LONGTEXT, created_at DATETIME(3), updated_at DATETIME(3), _raw_data_params VARCHAR(255), _raw_data_table VARCHAR(255), _raw_data_id BIGINT UNSIGNED,
    _raw_data_remark LONGTEXT, PRIMARY KEY (name), KEY (_raw_data_params));
CREATE TABLE project_mapping (
    project_name VARCHAR(255), `table` VARCHAR(255), row_id VARCHAR(255), created_at DATETIME(3), updated_at DATETIME(3), _raw_data_params VARCHAR(255), _raw_data_table VARCHAR(255),
    _raw_data_id BIGINT UNSIGNED, _raw_data_remark LONGTEXT, PRIMARY KEY (project_name, `table`, row_id), KEY (_raw_data_params));
CREATE TABLE cicd_deployments (
    id VARCHAR(255), cicd_scope_id VARCHAR(255), name TEXT, display_title LONGTEXT, url LONGTEXT, result VARCHAR(100), status VARCHAR(100), original_status VARCHAR(100), original_result
    VARCHAR(100), environment VARCHAR(255), original_environment VARCHAR(255), created_date DATETIME(3), queued_date DATETIME(3), started_date DATETIME(3), finished_date DATETIME(3),
    duration_sec DOUBLE, queued_duration_sec DOUBLE, subtask_name VARCHAR(255), created_at DATETIME(3), updated_at DATETIME(3), _raw_data_params VARCHAR(255), _raw_data_table VARCHAR(255),
    _raw_data_id BIGINT UNSIGNED, _raw_data_remark LONGTEXT, PRIMARY KEY (id), KEY (cicd_scope_id), KEY (_raw_data_params));
CREATE TABLE cicd_deployment_commits (
    id VARCHAR(255), cicd_scope_id VARCHAR(255), cicd_deployment_id VARCHAR(255), name VARCHAR(255), display_title LONGTEXT, url LONGTEXT, result VARCHAR(100), status VARCHAR(100),
    original_status VARCHAR(100), original_result VARCHAR(100), environment VARCHAR(255), original_environment VARCHAR(255), created_date DATETIME(3), queued_date DATETIME(3), started_date
    DATETIME(3), finished_date DATETIME(3), duration_sec DOUBLE, queued_duration_sec DOUBLE, commit_sha VARCHAR(255), commit_msg LONGTEXT, ref_name VARCHAR(255), repo_id VARCHAR(255),
    repo_url VARCHAR(500) NOT NULL, prev_success_deployment_commit_id VARCHAR(255), subtask_name VARCHAR(255), created_at DATETIME(3), updated_at DATETIME(3), _raw_data_params VARCHAR(255),
    _raw_data_table VARCHAR(255), _raw_data_id BIGINT UNSIGNED, _raw_data_remark LONGTEXT, PRIMARY KEY (id, commit_sha), KEY (cicd_scope_id), KEY (repo_url), KEY (_raw_data_params));
CREATE TABLE pull_requests (
    id VARCHAR(255), base_repo_id VARCHAR(191), head_repo_id VARCHAR(191), status VARCHAR(100), original_status VARCHAR(100), title LONGTEXT, description LONGTEXT, url VARCHAR(255),
    author_name VARCHAR(100), author_id VARCHAR(100), merged_by_name VARCHAR(100), merged_by_id VARCHAR(100), parent_pr_id VARCHAR(100), pull_request_key BIGINT, created_date DATETIME(3),
    merged_date DATETIME(3), closed_date DATETIME(3), type VARCHAR(100), component VARCHAR(100), merge_commit_sha VARCHAR(40), head_ref VARCHAR(255), base_ref VARCHAR(255), base_commit_sha
    VARCHAR(40), head_commit_sha VARCHAR(40), additions BIGINT, deletions BIGINT, is_draft TINYINT(1), created_at DATETIME(3), updated_at DATETIME(3), _raw_data_params VARCHAR(255),
    _raw_data_table VARCHAR(255), _raw_data_id BIGINT UNSIGNED, _raw_data_remark LONGTEXT, PRIMARY KEY (id), KEY (base_repo_id), KEY (head_repo_id), KEY (parent_pr_id), KEY
    (_raw_data_params));
CREATE TABLE project_pr_metrics (
    id VARCHAR(255), project_name VARCHAR(100), first_commit_sha LONGTEXT, pr_coding_time BIGINT, first_review_id LONGTEXT, pr_pickup_time BIGINT, pr_review_time BIGINT, deployment_commit_id
    LONGTEXT, pr_deploy_time BIGINT, pr_cycle_time BIGINT, first_commit_authored_date DATETIME(3), first_comment_date DATETIME(3), pr_created_date DATETIME(3), pr_merged_date DATETIME(3),
    pr_deployed_date DATETIME(3), created_at DATETIME(3), updated_at DATETIME(3), _raw_data_params VARCHAR(255), _raw_data_table VARCHAR(255), _raw_data_id BIGINT UNSIGNED, _raw_data_remark
    LONGTEXT, PRIMARY KEY (id, project_name), KEY (_raw_data_params));
CREATE TABLE incidents (
    id VARCHAR(255), url VARCHAR(255), incident_key VARCHAR(255), title LONGTEXT, description LONGTEXT, status VARCHAR(100), original_status VARCHAR(100), resolution_date DATETIME(3),
    created_date DATETIME(3), updated_date DATETIME(3), lead_time_minutes BIGINT UNSIGNED, original_estimate_minutes BIGINT, time_spent_minutes BIGINT, time_remaining_minutes BIGINT,
    creator_id VARCHAR(255), creator_name VARCHAR(255), parent_incident_id VARCHAR(255), priority VARCHAR(255), severity VARCHAR(255), urgency VARCHAR(255), component VARCHAR(255),
    original_project VARCHAR(255), `table` VARCHAR(255), scope_id VARCHAR(255), assignee_id VARCHAR(255), assignee_name VARCHAR(255), created_at DATETIME(3), updated_at DATETIME(3),
    _raw_data_params VARCHAR(255), _raw_data_table VARCHAR(255), _raw_data_id BIGINT UNSIGNED, _raw_data_remark LONGTEXT, PRIMARY KEY (id), KEY (`table`, scope_id), KEY (_raw_data_params));
CREATE TABLE project_incident_deployment_relationships (
    id VARCHAR(255), project_name VARCHAR(100), deployment_id LONGTEXT, created_at DATETIME(3), updated_at DATETIME(3), _raw_data_params VARCHAR(255), _raw_data_table VARCHAR(255),
    _raw_data_id BIGINT UNSIGNED, _raw_data_remark LONGTEXT, PRIMARY KEY (id, project_name), KEY (_raw_data_params));
CREATE TABLE commits (
    sha VARCHAR(40), additions BIGINT, deletions BIGINT, dev_eq BIGINT, message LONGTEXT, author_name VARCHAR(255), author_email VARCHAR(255), authored_date DATETIME(3), author_id
    VARCHAR(255), committer_name VARCHAR(255), committer_email VARCHAR(255), committed_date DATETIME(3), committer_id VARCHAR(255), created_at DATETIME(3), updated_at DATETIME(3),
    _raw_data_params VARCHAR(255), _raw_data_table VARCHAR(255), _raw_data_id BIGINT UNSIGNED, _raw_data_remark LONGTEXT, PRIMARY KEY (sha), KEY (committer_id), KEY (_raw_data_params));
