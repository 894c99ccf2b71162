-- Refused proofs are evidence as well: found by their statement's digest, by those for whom it was, and logged.
alter table refused_proof add column sha256 bytea not null default '';
alter table refused_proof add column subsystem text not null default '';    -- for whom it was; empty: not understood
alter table refused_proof add column log_index bigint;
alter table refused_proof add column certificate_status bytea not null default '';

create index refused_proof_sha256 on refused_proof (sha256);
create index refused_proof_subsystem on refused_proof (subsystem, refuse_time desc);
create unique index refused_proof_log on refused_proof (log_index);
create index refused_proof_unlogged on refused_proof (refuse_time) where log_index is null;
