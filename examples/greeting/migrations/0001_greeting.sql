-- +goose Up
CREATE TABLE greeting_greeting (
    id        {id},
    recipient TEXT    NOT NULL,
    text      TEXT    NOT NULL,
    delivered BOOLEAN NOT NULL DEFAULT FALSE,
    created   BIGINT  NOT NULL
);

-- +goose Down
DROP TABLE greeting_greeting;
