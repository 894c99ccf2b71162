-- What is still to be said about a message goes with the message.
alter table notification
    drop constraint notification_message_id_fkey,
    add constraint notification_message_id_fkey foreign key (message_id) references message on delete cascade;
