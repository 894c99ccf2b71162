-- needs: exchange/0004_exchanges.sql
-- Both were written with every exchange, in random order, and served no question: what a subsystem asks for goes by
-- `exchange_start` and `exchange_provider`.
drop index exchange_consumer;
drop index exchange_service;
