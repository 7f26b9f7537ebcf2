-- +goose Up
create table notes (
    id   bigint primary key generated always as identity,
    note text   not null
);

-- +goose Down
drop table notes;
