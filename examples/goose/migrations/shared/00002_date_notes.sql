-- +goose Up
alter table notes add column written timestamptz not null default now();

-- +goose Down
alter table notes drop column written;
