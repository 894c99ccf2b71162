"""A migration that the release before cannot go on with is refused before it lands."""

import pytest

from deploy import migrations

RELEASED = {"messages/0001_first.sql": "create table message (id int, old text)"}
SUMS = {name: migrations.digest(statements) for name, statements in RELEASED.items()}


def faults(statements: str, **others: str) -> list[str]:
    return migrations.faults(SUMS, RELEASED | {"messages/0002_next.sql": statements} | others)


def test_the_migrations_there_are_let_the_last_release_run_on() -> None:
    assert migrations.faults(migrations.released(), migrations.migrations()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "drop table message",
        "alter table message drop column old",
        "alter table message rename column old to older",
        "alter table message rename to letter",
        "alter table message alter column old type bytea",
        "alter table message alter old set data type int",
        "alter table message alter column old set not null",
        "alter table message add column new text not null",
        "alter table message add new int not null, add other int not null default 1",
        "alter table message add other int not null default 1, add column new int not null",
        "alter table message add constraint short check (length(old) < 9)",
        "alter table message add unique (old)",
        "create unique index once on message (old)",
        "drop index message_of",
        "truncate message",
        "delete from message",
        "create trigger watch before insert on message execute function watch()",
        "create or replace function watch() returns int language sql as $$ select 1; $$",
        "-- harmless\nALTER TABLE\n  message /* very */ DROP old",
    ],
)
def test_what_the_last_release_may_use_is_not_taken_away_or_tightened(statement: str) -> None:
    (fault,) = faults(f"create table fresh (id int not null);\n{statement};")
    assert fault.startswith("messages/0002_next.sql ")


@pytest.mark.parametrize(
    "statement",
    [
        "alter table message add column new text",
        "alter table message add column new int not null default 0, add other text",
        "alter table message alter column old drop not null",
        "create index of_old on message (old)",
        "create index some on message (old) where old is not null",
        "insert into message values (1, 'drop table message; rename')",
        "create function watch() returns int language sql as $$ delete from message; select 1 $$",
        (
            "create table fresh (id int not null, unique (id)); create unique index one on fresh (id);"
            " alter table fresh drop column id; create trigger watch after insert on fresh execute function watch()"
        ),
    ],
)
def test_what_adds_is_taken(statement: str) -> None:
    assert faults(statement) == []


def test_a_contraction_names_a_migration_that_the_last_release_has() -> None:
    drop = "alter table message drop column old"
    assert faults(f"-- needs: messages/0001_first.sql\n{drop}") == []
    expansion = {"messages/0003_expands.sql": "alter table message add column new text"}
    (fault,) = faults(f"-- needs: messages/0003_expands.sql\n{drop}", **expansion)
    assert "not in the last release" in fault


def test_a_migration_of_the_last_release_is_neither_edited_nor_removed() -> None:
    (edited,) = migrations.faults(SUMS, {"messages/0001_first.sql": "create table message (id bigint)"})
    (gone,) = migrations.faults(SUMS, {})
    assert "edited" in edited
    assert "gone" in gone
