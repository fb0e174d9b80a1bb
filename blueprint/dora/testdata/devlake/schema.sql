-- The tables of DevLake that are read, with the columns of theirs that matter here, written after its domain models
-- (apache/incubator-devlake, backend/core/models/domainlayer).
CREATE TABLE projects (name VARCHAR(255) PRIMARY KEY, description TEXT);
CREATE TABLE project_mapping (project_name VARCHAR(255), `table` VARCHAR(255), row_id VARCHAR(255), PRIMARY KEY (project_name, `table`, row_id));
CREATE TABLE cicd_deployments (
    id VARCHAR(255) PRIMARY KEY, cicd_scope_id VARCHAR(255), name TEXT, display_title LONGTEXT, url LONGTEXT, result VARCHAR(100), status VARCHAR(100),
    environment VARCHAR(255), original_environment VARCHAR(255), created_date DATETIME(3), queued_date DATETIME(3), started_date DATETIME(3), finished_date DATETIME(3),
    duration_sec DOUBLE, KEY (cicd_scope_id));
CREATE TABLE cicd_deployment_commits (
    id VARCHAR(255), cicd_scope_id VARCHAR(255), cicd_deployment_id VARCHAR(255), name VARCHAR(255), display_title LONGTEXT, url LONGTEXT, result VARCHAR(100), status VARCHAR(100),
    environment VARCHAR(255), original_environment VARCHAR(255), created_date DATETIME(3), queued_date DATETIME(3), started_date DATETIME(3), finished_date DATETIME(3),
    duration_sec DOUBLE, commit_sha VARCHAR(255), commit_msg LONGTEXT, ref_name VARCHAR(255), repo_id VARCHAR(255), repo_url VARCHAR(191) NOT NULL,
    prev_success_deployment_commit_id VARCHAR(255), PRIMARY KEY (id, commit_sha), KEY (cicd_scope_id), KEY (repo_url));
CREATE TABLE pull_requests (
    id VARCHAR(255) PRIMARY KEY, base_repo_id VARCHAR(191), title LONGTEXT, pull_request_key BIGINT, created_date DATETIME(3), merged_date DATETIME(3), merge_commit_sha VARCHAR(40), KEY (base_repo_id));
CREATE TABLE project_pr_metrics (
    id VARCHAR(255), project_name VARCHAR(100), first_commit_sha LONGTEXT, pr_coding_time BIGINT, pr_pickup_time BIGINT, pr_review_time BIGINT, deployment_commit_id LONGTEXT,
    pr_deploy_time BIGINT, pr_cycle_time BIGINT, first_commit_authored_date DATETIME(3), pr_created_date DATETIME(3), pr_merged_date DATETIME(3), pr_deployed_date DATETIME(3), PRIMARY KEY (id, project_name));
CREATE TABLE incidents (
    id VARCHAR(255) PRIMARY KEY, url VARCHAR(255), incident_key VARCHAR(255), title LONGTEXT, status VARCHAR(100), created_date DATETIME(3), resolution_date DATETIME(3), updated_date DATETIME(3),
    lead_time_minutes BIGINT UNSIGNED, severity VARCHAR(255), `table` VARCHAR(255), scope_id VARCHAR(255), KEY idx_table_scope_id (`table`, scope_id));
CREATE TABLE project_incident_deployment_relationships (id VARCHAR(255), project_name VARCHAR(100), deployment_id LONGTEXT, PRIMARY KEY (id, project_name));
CREATE TABLE commits (sha VARCHAR(40) PRIMARY KEY, message LONGTEXT, author_name VARCHAR(255), author_email VARCHAR(255), authored_date DATETIME(3));
