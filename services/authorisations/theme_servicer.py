"""ThemeService: makes themes, and retires them without breaking what was given in them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from solmu.authorisations.v1 import themes_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord

from services.authorisations import callers, fact_store, messages, themes
from services.authorisations.register_facts import RegisterFacts
from services.authorisations.revisions import Revisions, Write
from services.authorisations.theme_store import ThemeStore
from services.authorisations.themes import State, Theme
from services.runtime import pages
from services.runtime.database import Database
from services.runtime.errors import InvalidArgument, not_found
from services.runtime.facts.wire import rules_in

Step = Callable[[Theme], Theme]


class ThemeServicer:
    """Answers ThemeService. `clock` gives the time, with its zone."""

    def __init__(
        self,
        *,
        database: Database,
        revisions: Revisions,
        store: ThemeStore,
        registers: RegisterFacts,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._revisions = revisions
        self._store = store
        self._registers = registers
        self._clock = clock

    async def CreateTheme(self, request: themes_pb2.CreateThemeRequest) -> themes_pb2.Theme:
        """Makes a draft."""
        document = messages.theme_document(request.theme, theme_id=request.theme_id)
        now = self._clock()
        theme = Theme(
            theme_id=request.theme_id,
            uri=themes_pb2.Theme.FromString(document).uri,
            owner=callers.party_actor().party,
            document=document,
            rules=rules_in(document),
            state=State.DRAFT,
            create_time=now,
            update_time=now,
        )
        async with self._revisions.writing("ThemeService/CreateTheme") as write:
            await self._store.insert(write.transaction, theme)
            write.note(AuditRecord.KIND_THEME, theme.name)
        return messages.theme(theme, token=write.token)

    async def GetTheme(self, request: themes_pb2.GetThemeRequest) -> themes_pb2.Theme:
        """Returns a theme; a draft to its owner only."""
        token = await self._revisions.head(request.consistency_token)
        theme = await self._store.find(self._database, _id(request.name))
        if theme is None or (theme.state is State.DRAFT and theme.owner != callers.actor().party):
            raise not_found(request.name)
        return messages.theme(theme, token=token)

    async def ListThemes(self, request: themes_pb2.ListThemesRequest) -> themes_pb2.ListThemesResponse:
        """Returns a page of themes."""
        token = await self._revisions.head(request.consistency_token)
        owner = callers.actor().party
        question, size = f"themes {request.show_all} {owner}", pages.size(request.page_size)
        found = await self._store.page(
            self._database,
            after=pages.key(request.page_token, question=question),
            size=size + 1,
            show_all=request.show_all,
            owner=owner,
        )
        shown = found[:size]
        return themes_pb2.ListThemesResponse(
            themes=[messages.theme(theme) for theme in shown],
            next_page_token=pages.token(shown[-1].theme_id, question=question) if len(found) > size else "",
            consistency_token=token,
        )

    async def UpdateTheme(self, request: themes_pb2.UpdateThemeRequest) -> themes_pb2.Theme:
        """Changes a draft."""

        def step(theme: Theme) -> Theme:
            document = messages.theme_document(_merged(theme, request), theme_id=theme.theme_id)
            return themes.updated(
                theme,
                uri=themes_pb2.Theme.FromString(document).uri,
                document=document,
                rules=rules_in(document),
                etag=request.theme.etag,
                now=self._clock(),
            )

        return await self._change("UpdateTheme", request.theme.name, step)

    async def ActivateTheme(self, request: themes_pb2.ActivateThemeRequest) -> themes_pb2.Theme:
        """Makes a draft usable, and unchangeable."""
        return await self._change(
            "ActivateTheme", request.name, lambda theme: themes.activated(theme, etag=request.etag, now=self._clock())
        )

    async def HideTheme(self, request: themes_pb2.HideThemeRequest) -> themes_pb2.Theme:
        """Takes a theme out of use for new mandates."""
        return await self._change(
            "HideTheme",
            request.name,
            lambda theme: themes.shown(theme, State.HIDDEN, etag=request.etag, now=self._clock()),
        )

    async def ShowTheme(self, request: themes_pb2.ShowThemeRequest) -> themes_pb2.Theme:
        """Brings a hidden theme back."""
        return await self._change(
            "ShowTheme",
            request.name,
            lambda theme: themes.shown(theme, State.ACTIVE, etag=request.etag, now=self._clock()),
        )

    async def _change(self, method: str, name: str, step: Step) -> themes_pb2.Theme:
        """A step in the life of a theme, by its owner: others manage theirs."""
        async with self._revisions.writing(f"ThemeService/{method}") as write:
            theme = await self._store.find(write.transaction, _id(name))
            if theme is None or theme.owner != callers.actor().party:
                raise not_found(name)
            fresh = step(theme)
            if fresh is not theme:
                await self._write(write, fresh)
        return messages.theme(fresh, token=write.token)

    async def _write(self, write: Write, theme: Theme) -> None:
        before = messages.ages_named(await self._store.in_use(write.transaction))
        await self._store.update(write.transaction, theme)
        write.note(AuditRecord.KIND_THEME, theme.name)
        if theme.state is State.DRAFT:
            return
        write.changes.append(messages.theme_fact(theme))
        if fresh := messages.ages_named([theme]) - before:
            of_children = fact_store.records(write.transaction, self._registers, before | fresh, of_children=True)
            write.changes += [change async for change in of_children]


def _merged(theme: Theme, request: themes_pb2.UpdateThemeRequest) -> themes_pb2.Theme:
    """The draft's content with what an update changes (AIP-134). Raises InvalidArgument, UPDATE_MASK_INVALID."""
    changeable = [field.name for field, _ in request.theme.ListFields() if field.name not in messages.OUTPUT_OF_THEME]
    merged = themes_pb2.Theme.FromString(theme.document)
    for path in request.update_mask.paths or changeable:
        if path not in merged.DESCRIPTOR.fields_by_name or path in messages.OUTPUT_OF_THEME:
            raise InvalidArgument("UPDATE_MASK_INVALID", f"{path} cannot be changed", field=path)
        merged.ClearField(path)  # type: ignore[arg-type]
        only = themes_pb2.Theme()
        only.CopyFrom(request.theme)
        for field, _ in request.theme.ListFields():
            if field.name != path:
                only.ClearField(field.name)  # type: ignore[arg-type]
        merged.MergeFrom(only)
    if not merged.titles or not merged.longest_terms:
        raise InvalidArgument("UPDATE_MASK_INVALID", "a theme needs titles and longest terms", field="update_mask")
    return merged


def _id(name: str) -> str:
    return name.removeprefix("themes/")
