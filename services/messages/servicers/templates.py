"""TemplateService."""

from __future__ import annotations

from solmu.messages.v1 import templates_pb2

from services.messages import template_store, templates
from services.messages.servicers import contents, names
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import InvalidArgument, not_found

Template = templates_pb2.Template


class Templates:
    """Keeps the templates of units."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def CreateTemplate(self, request: templates_pb2.CreateTemplateRequest) -> Template:
        """Makes a template, or a new version where its texts differ from the newest."""
        unit_id, bodies = names.part(request.parent, 1), request.template.bodies
        await names.own_unit(self._database, unit_id)
        contents.check_bodies(bodies, "template.bodies")
        templates.variables(text for body in bodies for text in (body.title, body.text))
        if not bodies[0].title:
            violations = [("template.bodies[0].title", "is empty: it is the message's title")]
            raise InvalidArgument("FIELD_INVALID", "the first text has no title", violations=violations)
        packed = Template(bodies=bodies).SerializeToString(deterministic=True)
        async with self._database.transaction() as transaction:
            newest = await template_store.hold_template(transaction, unit_id, request.template_id)
            if newest is not None and newest["bodies"] == packed:
                return _template(newest)
            row = await template_store.insert_template(
                transaction,
                unit_id=unit_id,
                template_id=request.template_id,
                version=newest["version"] + 1 if newest is not None else 1,
                bodies=packed,
                now=names.now(),
            )
        return _template(row)

    async def GetTemplate(self, request: templates_pb2.GetTemplateRequest) -> Template:
        """The newest version of a template of the caller's organisation."""
        unit_id = names.part(request.name, 1)
        await names.own_unit(self._database, unit_id)
        row = await template_store.template(self._database, unit_id, names.part(request.name, 3))
        if row is None:
            raise not_found(request.name)
        return _template(row)

    async def ListTemplates(self, request: templates_pb2.ListTemplatesRequest) -> templates_pb2.ListTemplatesResponse:
        """The newest versions of a unit's templates, by name."""
        unit_id = names.part(request.parent, 1)
        await names.own_unit(self._database, unit_id)
        size = pages.size(request.page_size)
        after = pages.key(request.page_token, question=request.parent)
        rows = await template_store.templates_of(self._database, unit_id, after=after, limit=size + 1)
        response = templates_pb2.ListTemplatesResponse(templates=[_template(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(rows[size - 1]["template_id"], question=request.parent)
        return response


def _template(row: Row) -> Template:
    result = Template.FromString(row["bodies"])
    result.MergeFrom(
        Template(
            name=f"units/{row['unit_id']}/templates/{row['template_id']}",
            version=row["version"],
            variables=templates.variables(text for body in result.bodies for text in (body.title, body.text)),
            create_time=names.timestamp(row["create_time"]),
        )
    )
    return result
