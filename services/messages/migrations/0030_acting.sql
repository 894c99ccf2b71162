-- Whether the recipient alone may see a message. What a release without this column has sent counts as such: whose
-- word it was that mandate holders may see it stands in the sealed part only.
alter table message add column recipient_only boolean not null default true;
-- Who acted for sender_party, under which mandate (solmu.types.v1.Actor); null where the party itself did.
alter table message add column sender_actor bytea;
