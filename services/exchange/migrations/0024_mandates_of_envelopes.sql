-- For whom an envelope is: a serialised OnBehalfOf, sealed and erased with the body. Null: for the member itself.
alter table envelope_content add column on_behalf_of bytea;

-- What was found of the mandate when it arrived: a serialised CheckMandateResponse.
alter table delivery add column finding bytea;
