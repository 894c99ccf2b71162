-- Messages known by number to protocols whose ids are numbers; the others have none.
create table message_number (
    number     bigint generated always as identity primary key,
    message_id uuid not null unique references message on delete cascade
);
