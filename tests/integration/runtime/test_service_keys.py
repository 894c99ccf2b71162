"""Service keys under each kind of root: opened at the start, moved without a stop, refused where the root is wrong."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from services.runtime.database import Database
from services.runtime.keys import __main__ as command
from services.runtime.keys import files as key_files
from services.runtime.keys import kms_root, service_keys, setting, store
from services.runtime.keys.root import FileRoot, RootError
from services.runtime.keys.token_root import TokenRoot
from services.runtime.sealing import FIRST, UNMARKED, Sealer, Vault
from tests import kms_plugin
from tests.engines import Engines
from tests.integration.runtime.conftest import Trial
from tests.softhsm import LABEL, SoftToken

OWNER = "mailboxes/1"


@pytest.fixture
async def database(trial: Trial) -> Database:
    """With the runtime's tables."""
    found = await trial()
    await found.migrate()
    return found


def file_root() -> FileRoot:
    return FileRoot(os.urandom(32))


def token_uri(token: SoftToken, name: str) -> str:
    return f"pkcs11:token={LABEL};object={name}?module-path={quote(str(token.module))}&pin-source=file:{token.pin}"


async def made(token: SoftToken, name: str) -> TokenRoot:
    root = setting.root(token_uri(token, name))
    assert isinstance(root, TokenRoot)
    await root.make()
    return root


def sealed_by(vault: Vault) -> tuple[bytes, bytes]:
    data_key = vault.new_key(owner=OWNER)
    return data_key, vault.sealer(data_key, owner=OWNER).seal(b"content", context="x")


def opens(vault: Vault, sealed: tuple[bytes, bytes]) -> bool:
    return vault.sealer(sealed[0], owner=OWNER).open(sealed[1], context="x") == b"content"


async def test_the_first_process_makes_the_key_and_all_that_start_with_it_have_the_same(database):
    root = file_root()
    vaults = await asyncio.gather(*(service_keys.open_vault(database, root) for _ in range(5)))
    sealed = sealed_by(vaults[0])
    assert all(opens(vault, sealed) for vault in vaults)
    assert len(await store.wrappings(database)) == 1


async def test_a_wrong_file_is_refused_and_changes_nothing(database):
    root = file_root()
    sealed = sealed_by(await service_keys.open_vault(database, root))
    with pytest.raises(RootError, match=r"has not wrapped the keys of this database; these have: file:[0-9a-f]{16}"):
        await service_keys.open_vault(database, file_root())
    assert opens(await service_keys.open_vault(database, root), sealed)


async def test_what_the_root_file_wrapped_itself_before_there_were_service_keys_opens(trial, tmp_path):
    database = await trial()
    before = tmp_path / "trial" / "migrations"
    before.mkdir(parents=True)
    (before / "0001_trial.sql").write_text("select 1")
    await database.migrate(before)
    await database.execute(
        "insert into service_key (generation) values (0)"
    )  # as the migration does for an old database
    root = file_root()
    old_key = Sealer(root.key).seal(bytes(32), context=OWNER)
    with pytest.raises(RootError, match="start once with that"):
        await service_keys.open_vault(database, kms_root.root("unix:///nowhere.sock"))
    vault = await service_keys.open_vault(database, root)
    assert set(vault.generations) == {UNMARKED}
    sealed = Sealer(bytes(32)).seal(b"content", context="x")
    assert opens(vault, (old_key, sealed))
    new = file_root()
    await service_keys.wrap(database, root, new)
    assert opens(await service_keys.open_vault(database, new), (old_key, sealed))


async def test_an_old_database_is_known_by_its_migrations(trial, tmp_path, monkeypatch):
    database = await trial()
    await database.execute(
        "create table schema_migration (name text primary key, sha256 text not null, apply_time timestamptz not null default now())"
    )
    await database.execute("insert into schema_migration (name, sha256) values ('messages/0001_messages.sql', 'x')")
    migration = next(Path(service_keys.__file__).parents[1].glob("migrations/*_service_keys.sql"))
    await database.execute(migration.read_text())
    assert set(await store.generations(database)) == {UNMARKED}


async def test_the_root_moves_from_a_file_to_a_token_while_processes_run(database, soft_token):
    old, new = file_root(), await made(soft_token, "moved")
    running = await service_keys.open_vault(database, old)
    sealed = sealed_by(running)
    await service_keys.wrap(database, old, new)
    restarted = await service_keys.open_vault(database, new)
    not_yet = await service_keys.open_vault(database, old)
    for vault in (running, restarted, not_yet):
        assert opens(vault, sealed)
        assert opens(restarted, sealed_by(vault))
    with pytest.raises(RootError, match="is in use"):
        await service_keys.drop(database, new, new.name)
    assert await service_keys.drop(database, new, old.name) == 1
    assert opens(await service_keys.open_vault(database, new), sealed)
    assert opens(running, sealed), "who holds the keys needs no root"
    with pytest.raises(RootError, match="these have: pkcs11:token=solmu;object=moved"):
        await service_keys.open_vault(database, old)


async def test_a_root_is_not_dropped_before_another_has_wrapped_everything(database):
    old = file_root()
    await service_keys.open_vault(database, old)
    with pytest.raises(RootError, match="has not wrapped"):
        await service_keys.drop(database, file_root(), old.name)
    assert await service_keys.open_vault(database, old)


async def test_a_key_in_a_token_wraps_for_its_context_only_and_never_leaves(soft_token):
    import pkcs11

    root = await made(soft_token, "guarded")
    wrapped = await root.wrap(bytes(32), context="a")
    assert await root.unwrap(wrapped, context="a") == bytes(32)
    with pytest.raises(RootError):
        await root.unwrap(wrapped, context="b")
    with pytest.raises(RootError, match="has a key guarded already"):
        await root.make()
    with root.session.use() as session:
        key = session.get_key(label="guarded")
        assert (key[pkcs11.Attribute.SENSITIVE], key[pkcs11.Attribute.EXTRACTABLE]) == (True, False)
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]
    root.session.close()


async def test_a_token_that_cannot_be_used_is_refused_with_what_to_do(soft_token, tmp_path):
    wrong_pin = tmp_path / "pin"
    wrong_pin.write_text("654321")
    uri = token_uri(soft_token, "missing")
    for value, told in (
        (uri, "does not have the key; `python -m services.runtime.keys make`"),
        (uri.replace(f"token={LABEL}", "token=other"), "there is none of that label"),
        (uri.replace(str(soft_token.pin), str(wrong_pin)), "the PIN is wrong"),
    ):
        with pytest.raises(RootError, match=told):
            await setting.root(value).wrap(bytes(32), context="a")
    for value, told in (
        ("pkcs11:token=solmu", "lacks object, module-path, pin-source"),
        (uri + "&slot-id=1", "has slot-id"),
        (uri.replace(str(soft_token.module), "/nowhere.so"), "there is no file"),
    ):
        with pytest.raises(ValueError, match=told):
            setting.root(value)


async def test_a_kms_wraps_and_its_own_rotation_is_followed_by_wrapping_again(database, tmp_path):
    async with kms_plugin.running(tmp_path) as (plugin, address):
        root = setting.root(address)
        vault = await service_keys.open_vault(database, root)
        sealed = sealed_by(vault)
        plugin.asked.clear()
        assert opens(vault, sealed)
        assert plugin.asked == [], "the root is not asked in a call"
        plugin.rotate()
        assert opens(await service_keys.open_vault(database, root), sealed)
        await service_keys.wrap(database, root, root)
        plugin.forget("key-1")
        assert opens(await service_keys.open_vault(database, root), sealed)
        plugin.forget("key-2")
        with pytest.raises(RootError, match="does its service let it use the key"):
            await service_keys.open_vault(database, root)
    assert opens(vault, sealed), "a process that has its keys goes on without the plugin"


async def test_a_kms_that_is_away_or_unwell_is_refused(database, tmp_path):
    away = kms_root.KmsRoot(f"unix://{tmp_path}/nobody.sock", patience=0.2)
    with pytest.raises(RootError, match="is it up"):
        await service_keys.open_vault(database, away)
    assert await store.generations(database) == {}, "nothing is half made"
    async with kms_plugin.running(tmp_path) as (plugin, address):
        plugin.healthz = "sealed"
        with pytest.raises(RootError, match="is not well"):
            await service_keys.open_vault(database, setting.root(address))
    with pytest.raises(ValueError, match="not the address of a KMS plugin"):
        setting.root("unix:plugin.sock")


async def test_a_kms_cannot_give_one_key_for_another(tmp_path):
    async with kms_plugin.running(tmp_path) as (_, address):
        root = setting.root(address)
        wrapped = await root.wrap(bytes(32), context="service key 1")
        assert await root.unwrap(wrapped, context="service key 1") == bytes(32)
        with pytest.raises(RootError, match="something else"):
            await root.unwrap(wrapped, context="service key 2")


async def test_a_new_generation_wraps_only_when_every_process_has_had_time_to_read_it(database):
    root = file_root()
    vault = await service_keys.open_vault(database, root)
    following = asyncio.create_task(service_keys.follow(vault, database, root, interval=0.01))
    try:
        before = sealed_by(vault)
        assert await service_keys.renew(database, root) == FIRST + 1
        async with asyncio.timeout(30):
            while set(vault.generations) != {FIRST, FIRST + 1}:
                await asyncio.sleep(0.01)
        assert vault.new_key(owner=OWNER)[:4] == FIRST.to_bytes(4, "big")
        await database.execute("update service_key set create_time = now() - interval '1 hour' where generation = 2")
        async with asyncio.timeout(30):
            while vault.new_key(owner=OWNER)[:4] != (FIRST + 1).to_bytes(4, "big"):
                await asyncio.sleep(0.01)
        after = sealed_by(vault)
        started = await service_keys.open_vault(database, root)
        assert opens(started, before)
        assert opens(started, after)
    finally:
        following.cancel()


async def test_no_new_generation_while_keys_are_moved(database):
    old, new = file_root(), file_root()
    await service_keys.open_vault(database, old)
    await service_keys.wrap(database, old, new)
    with pytest.raises(RootError, match=f"drop {old.name} first"):
        await service_keys.renew(database, new)


async def test_a_file_that_the_root_wrapped_opens_under_that_root_alone(tmp_path, soft_token):
    root, path = await made(soft_token, "files"), tmp_path / "party.key"
    path.write_bytes(b"p" * 32)
    assert await key_files.read(str(path)).opened(None) == b"p" * 32
    path.write_bytes(await key_files.wrapped(b"p" * 32, root))
    assert b"p" * 32 not in path.read_bytes()
    assert await key_files.read(str(path)).opened(root) == b"p" * 32
    for other in (None, file_root()):
        with pytest.raises(RootError, match="was wrapped by pkcs11:token=solmu;object=files"):
            await key_files.read(str(path)).opened(other)
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="holds 5 bytes"):
        key_files.read(str(path))


async def test_the_command_shows_moves_and_drops(engines: Engines, database, tmp_path, monkeypatch, capsys):
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    old.write_bytes(os.urandom(32))
    new.write_bytes(os.urandom(32))
    identity = engines.identity("exchange")
    for name, value in {
        "SOLMU_DATABASE": f"{engines.database('exchange')}?search_path=trial",
        "SOLMU_TLS_CERTIFICATE": str(identity.certificate),
        "SOLMU_TLS_KEY": str(identity.key),
        "SOLMU_TLS_AUTHORITIES": str(identity.authorities),
        "SOLMU_ROOT_KEY": str(old),
    }.items():
        monkeypatch.setenv(name, value)
    await service_keys.open_vault(database, setting.root(str(old)))

    async def says(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(command.main, arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    old_name, new_name = setting.root(str(old)).name, setting.root(str(new)).name
    status, out, _ = await says("show")
    assert (status, out.count("(in use)")) == (0, 1)
    assert (await says("wrap", str(new)))[1] == f"{new_name} has wrapped the generations 1\n"
    status, _, told = await says("drop", old_name)
    assert (status, "is in use" in told) == (command.EX_CONFIG, True)
    monkeypatch.setenv("SOLMU_ROOT_KEY", str(new))
    assert (await says("drop", old_name))[0] == 0
    assert old_name not in (await says("show"))[1]
    party = tmp_path / "party.key"
    party.write_bytes(b"p" * 32)
    party.chmod(0o600)
    assert (await says("wrap-file", str(party)))[0] == 0
    assert party.read_bytes().startswith(key_files.WRAPPED)
    assert party.stat().st_mode & 0o777 == 0o600
    assert await key_files.read(str(party)).opened(setting.root(str(new))) == b"p" * 32
    assert (await says("make", str(new)))[0] == command.EX_CONFIG
