-- A project of two repositories, one that shares a scope with it, one of another, and one that is deployed seldom.
INSERT INTO projects (name, description) VALUES ('Shop', 'The shop'), ('Both', 'Shares a pipeline'), ('Other', ''), ('Seldom', '');
INSERT INTO project_mapping (project_name, `table`, row_id) VALUES ('Shop', 'cicd_scopes', 's1'), ('Shop', 'cicd_scopes', 's2'), ('Shop', 'repos', 'r1'), ('Shop', 'boards', 'b1'),
    ('Both', 'cicd_scopes', 's2'), ('Both', 'repos', 'r2'), ('Both', 'boards', 'b2'), ('Other', 'cicd_scopes', 's3'), ('Other', 'repos', 'r3'), ('Seldom', 'cicd_scopes', 's4'), ('Seldom', 'boards', 'b4');
INSERT INTO commits (sha, message, author_name, author_email, authored_date) VALUES ('aaaaaaaa', 'Begin', 'Ann', 'ann@example.com', '2026-02-27 08:00:00'), ('bbbbbbbb', 'Go on', 'Bob', NULL, '2026-03-03 08:00:00');
INSERT INTO cicd_deployments (id, cicd_scope_id, display_title, url, result, status, environment, original_environment, created_date, started_date, finished_date) VALUES
    ('d1', 's1', 'Release 1', 'https://ci.example.com/1', 'SUCCESS', 'DONE', 'PRODUCTION', 'eu', '2026-03-02 09:00:00', '2026-03-02 09:55:00', '2026-03-02 10:00:00'),
    ('d2', 's1', 'Release 2', '', 'SUCCESS', 'DONE', 'PRODUCTION', 'eu', '2026-03-03 09:00:00', '2026-03-03 09:55:00', '2026-03-03 10:00:00.900'),
    ('d3', 's2', 'Release 3', '', 'FAILURE', 'DONE', 'PRODUCTION', '', '2026-03-04 09:00:00', '2026-03-04 09:55:00', '2026-03-04 10:00:00'),
    ('d4', 's2', 'Release 4', '', 'SUCCESS', 'DONE', 'PRODUCTION', '', '2026-03-09 09:00:00', '2026-03-09 09:55:00', '2026-03-09 10:00:00'),
    ('d5', 's1', 'Release 5', '', 'SUCCESS', 'DONE', 'STAGING', '', '2026-03-10 09:00:00', '2026-03-10 09:55:00', '2026-03-10 10:00:00'),
    ('d6', 's1', 'Release 6', '', '', 'IN_PROGRESS', 'PRODUCTION', '', '2026-03-28 09:00:00', NULL, NULL),
    ('d7', 's3', 'Later in the second', '', 'SUCCESS', 'DONE', 'STAGING', '', '2026-03-11 09:00:00', '2026-03-11 09:55:00.900', '2026-03-11 10:00:00'),
    ('d8', 's3', 'Earlier in the second', '', 'SUCCESS', 'DONE', 'STAGING', '', '2026-03-11 09:00:00', '2026-03-11 09:55:00.100', '2026-03-11 10:00:00');
INSERT INTO cicd_deployment_commits (id, cicd_scope_id, cicd_deployment_id, result, environment, finished_date, commit_sha, commit_msg, ref_name, repo_url) VALUES
    ('d1:a', 's1', 'd1', 'SUCCESS', 'PRODUCTION', '2026-03-02 09:58:00', 'aaaaaaaa', NULL, 'refs/tags/v1', 'r1'), ('d1:b', 's1', 'd1', 'SUCCESS', 'PRODUCTION', '2026-03-02 10:00:00', 'cccccccc', 'Finish', 'refs/tags/v1.0.1', 'r1b'),
    ('d2:a', 's1', 'd2', 'SUCCESS', 'PRODUCTION', '2026-03-03 10:00:00.900', 'bbbbbbbb', NULL, '', 'r1'), ('d3:a', 's2', 'd3', 'FAILURE', 'PRODUCTION', '2026-03-04 10:00:00', 'dddddddd', 'x', '', 'r2'),
    ('d4:a', 's2', 'd4', 'SUCCESS', 'PRODUCTION', '2026-03-09 10:00:00', 'eeeeeeee', 'x', '', 'r2'), ('d5:a', 's1', 'd5', 'SUCCESS', 'STAGING', '2026-03-10 10:00:00', 'ffffffff', 'x', '', 'r1');
-- Days of another project, and of the seldom one.
INSERT INTO cicd_deployment_commits (id, cicd_scope_id, cicd_deployment_id, result, environment, finished_date, commit_sha, repo_url)
    SELECT CONCAT('o', seq), 's3', CONCAT('o', seq), 'SUCCESS', 'PRODUCTION', '2026-02-20 12:00:00' + INTERVAL seq * 13 HOUR, 'x', 'r3' FROM seq_1_to_60;
INSERT INTO cicd_deployment_commits (id, cicd_scope_id, cicd_deployment_id, result, environment, finished_date, commit_sha, repo_url)
    SELECT CONCAT('s', seq), 's4', CONCAT('s', seq), 'SUCCESS', 'PRODUCTION', '2025-04-10 12:00:00' + INTERVAL seq * 70 DAY, 'x', 'r4' FROM seq_0_to_4;
INSERT INTO incidents (id, title, created_date, resolution_date, lead_time_minutes, `table`, scope_id) VALUES
    ('i1', 'Down', '2026-03-02 11:00:00', '2026-03-02 11:45:30', 45, 'boards', 'b1'), ('i2', 'Down again', '2026-03-02 12:00:00', '2026-03-02 15:00:00', 180, 'boards', 'b1'), ('i3', 'Late', '2026-03-27 12:00:00', '2026-03-28 12:00:00', 1440, 'boards', 'b2'),
    ('i4', 'Open', '2026-03-03 12:00:00', NULL, NULL, 'boards', 'b1'), ('i5', 'Old', '2025-06-20 12:00:00', '2025-08-21 12:00:00', 89280, 'boards', 'b4'), ('i6', 'Before', '2026-02-01 12:00:00', '2026-03-05 12:00:00', 46080, 'boards', 'b1');
INSERT INTO project_incident_deployment_relationships (id, project_name, deployment_id) VALUES ('i1', 'Shop', 'd1'), ('i2', 'Shop', 'd1'), ('i3', 'Shop', 'd4'), ('i3', 'Both', 'd4'), ('i4', 'Shop', 'd2'), ('i5', 'Seldom', 's1');
INSERT INTO pull_requests (id, base_repo_id, created_date, merged_date) VALUES
    ('p1', 'r1', '2026-03-02 08:00:00', '2026-03-02 09:00:00'), ('p2', 'r1', '2026-03-02 20:00:00', '2026-03-03 09:00:00'), ('p3', 'r2', '2026-03-05 08:00:00', '2026-03-06 09:00:00'), ('p4', 'r1', '2026-03-05 08:00:00', NULL), ('p5', 'r1', '2026-03-01 08:00:00', '2026-03-02 08:30:00');
INSERT INTO project_pr_metrics (id, project_name, deployment_commit_id, pr_cycle_time, first_commit_authored_date) VALUES
    ('p1', 'Shop', 'd1:b', 1501, '2026-03-01 09:00:00'), ('p2', 'Shop', 'd2:a', 900, '2026-03-02 19:00:00'), ('p3', 'Both', 'd4:a', 6000, '2026-03-05 07:00:00'), ('p4', 'Shop', 'd2:a', 100, NULL), ('p5', 'Shop', 'd1:b', NULL, '2026-03-01 08:00:00');
