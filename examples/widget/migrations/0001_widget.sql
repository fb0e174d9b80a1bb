-- +goose Up
CREATE TABLE widget_widget (
    id      {id},
    name    TEXT   NOT NULL,
    created BIGINT NOT NULL
);
CREATE INDEX widget_widget_created ON widget_widget (created);

-- +goose Down
DROP TABLE widget_widget;
