// Reads /openapi.json and shows it, one operation at a time; sends calls with the browser's certificate and a token.
"use strict";

const byId = (id) => document.getElementById(id);
const VERBS = ["get", "post", "put", "patch", "delete"];
let spec, operations;
const tokens = new Map(); // by client and scopes: {value, until}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Paragraphs, lists, `code` and **bold**: what the comments of the contracts use. Text only, never HTML.
function prose(text) {
  const inline = (line) =>
    line.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
      if (part.startsWith("`") && part.length > 1) return make("code", {}, part.slice(1, -1));
      return part.startsWith("**") ? make("strong", {}, part.slice(2, -2)) : part;
    });
  return (text || "").split(/\n\n+/).filter(Boolean).map((block) => {
    const lines = block.split("\n");
    if (!lines.every((line) => line.startsWith("- "))) return make("p", {}, ...inline(lines.join(" ")));
    return make("ul", {}, ...lines.map((line) => make("li", {}, ...inline(line.slice(2)))));
  });
}

const resolve = (node) =>
  node && node.$ref ? node.$ref.slice(2).split("/").reduce((at, key) => at[key], spec) : node;

function typeOf(schema) {
  const name = schema.$ref ? schema.$ref.split("/").pop() : "";
  const real = resolve(schema);
  if (real.type === "array") return `list of ${typeOf(real.items)}`;
  return [name || real.type || "any", real.format, schema.pattern && `/${schema.pattern}/`, real.maxLength && `≤ ${real.maxLength} characters`]
    .filter(Boolean).join(", ");
}

// A schema as a tree that opens on demand, since messages may contain themselves.
function tree(schema, required = []) {
  const real = resolve(schema);
  const holder = make("div");
  for (const [name, field] of Object.entries(real.properties || {})) {
    const inner = field.type === "array" ? field.items : field;
    const target = resolve(inner);
    const label = make("summary", {}, make("code", { className: required.includes(name) ? "required" : "" }, name),
      make("span", { className: "quiet" }, ` ${typeOf(field)}${field.readOnly ? ", output only" : ""}`));
    const row = make("details", {}, label, ...prose(field.description));
    if (target.enum || target.properties) {
      row.addEventListener("toggle", () => {
        if (row.dataset.filled) return;
        row.dataset.filled = "yes";
        row.append(target.enum ? make("div", {}, ...prose(target.description)) : tree(inner, target.required));
      });
    }
    holder.append(row);
  }
  return holder;
}

// What has to be in a body, where the contract has no example.
function skeleton(schema, depth = 0) {
  const real = resolve(schema);
  if (real.type === "array") return depth > 3 ? [] : [skeleton(real.items, depth + 1)];
  if (real.enum) return (schema.enum || real.enum).find((value) => !value.endsWith("_UNSPECIFIED")) || real.enum[0];
  if (real.type !== "object") return real.type === "boolean" ? false : real.type === "integer" ? real.minimum || 0 : "";
  const wanted = (real.required || []).concat((real.allOf || []).flatMap((one) => one.oneOf?.[0].required || []));
  return depth > 4 ? {} : Object.fromEntries(wanted.map((name) => [name, skeleton(real.properties[name], depth + 1)]));
}

async function token(scopes) {
  const client = byId("client").value.trim();
  if (!client) { byId("client").focus(); throw new Error("Say which client your certificate is of."); }
  const key = `${client} ${scopes.join(" ")}`;
  const known = tokens.get(key);
  if (known && known.until > Date.now()) return known.value;
  const form = new URLSearchParams({ grant_type: "client_credentials", client_id: client, scope: scopes.join(" ") });
  const answer = await fetch("/oauth2/token", { method: "POST", body: form });
  // Here are no tokens, and no methods either: it is the port for browsers.
  if (answer.status === 404) throw new Error("This address is for reading. Calls need a client certificate: run “solmu connect”, and open the address that it prints with /docs behind it.");
  const issued = await answer.json();
  if (!answer.ok) throw new Error(`No token: ${issued.error_description || issued.detail || issued.error}`);
  tokens.set(key, { value: issued.access_token, until: Date.now() + (issued.expires_in - 30) * 1000 });
  byId("token").textContent = `token for ${scopes.join(" ")}`;
  return issued.access_token;
}

function request(entry, form) {
  const query = new URLSearchParams();
  let path = entry.path;
  for (const parameter of entry.operation.parameters) {
    const value = form.elements[`p-${parameter.name}`].value;
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (parameter.schema.type === "array") value.split(",").filter(Boolean).forEach((one) => query.append(parameter.name, one.trim()));
    else if (value) query.append(parameter.name, value);
  }
  return path + (query.size ? `?${query}` : "");
}

async function send(entry, form, out) {
  const options = { method: entry.verb.toUpperCase(), headers: {} };
  const scopes = entry.operation.security[0].token;
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const file = form.elements.file?.files[0];
    if (file) options.body = file;
    else if (form.elements.body) {
      options.body = JSON.stringify(JSON.parse(form.elements.body.value || "{}"));
      options.headers["content-type"] = "application/json";
    }
    options.headers.authorization = `Bearer ${await token(scopes)}`;
    const began = performance.now();
    const answer = await fetch(request(entry, form), options);
    const text = await answer.text();
    const type = answer.headers.get("content-type") || "";
    let shown = text;
    if (type.includes("json")) try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* a stream: a line each */ }
    out.replaceChildren(
      make("p", { id: "status" }, make("strong", {}, `${answer.status} ${answer.statusText}`), ` ${type}, ${Math.round(performance.now() - began)} ms`),
      make("pre", { id: "answer" }, /json|text|xml/.test(type) ? shown : `${text.length} characters of ${type}`));
  } catch (error) {
    out.replaceChildren(make("p", { id: "status", role: "alert" }, String(error.message || error)));
  } finally {
    button.disabled = false;
  }
}

// Checked here, since the attribute `pattern` takes stricter expressions than the contracts use.
function field(one) {
  const input = make("input", { id: `p-${one.name}`, name: `p-${one.name}`, required: Boolean(one.required), spellcheck: false });
  const pattern = one.schema.pattern && new RegExp(one.schema.pattern);
  if (pattern) input.addEventListener("input", () =>
    input.setCustomValidity(!input.value || pattern.test(input.value) ? "" : `Must match ${one.schema.pattern}`));
  return input;
}

function parameters(list) {
  if (!list.length) return null;
  return make("table", {}, ...list.map((one) => make("tr", {},
    make("td", {}, make("label", { htmlFor: `p-${one.name}`, className: one.required ? "required" : "" }, make("code", {}, one.name)),
      make("div", { className: "quiet" }, one.in)),
    make("td", {}, field(one)),
    make("td", {}, ...prose(one.description), make("span", { className: "quiet" }, typeOf(one.schema))))));
}

function body(operation) {
  const [type, content] = Object.entries(operation.requestBody?.content || {})[0] || [];
  if (!type) return [];
  if (type !== "application/json") return [make("h2", {}, "Body"), make("p", {}, "The content itself: ", make("input", { type: "file", name: "file", ariaLabel: "Content" }))];
  const example = Object.values(content.examples || {})[0]?.value ?? skeleton(content.schema);
  const text = make("textarea", { name: "body", spellcheck: false, ariaLabel: "JSON body" });
  text.value = JSON.stringify(example, null, 2);
  return [make("h2", {}, "Body"), text, make("details", {}, make("summary", {}, `All fields of ${typeOf(content.schema)}`),
    tree(content.schema, resolve(content.schema).required))];
}

function answers(operation) {
  return Object.entries(operation.responses).map(([status, response]) => {
    const real = resolve(response);
    const schema = status === "200" ? Object.values(real.content || {})[0]?.schema : null;
    return make("details", {}, make("summary", {}, make("strong", {}, status), ` ${real.description.split("\n")[0].replace(" Reasons:", "")}`),
      ...(status === "200" ? [] : prose(real.description.split("\n").slice(1).join("\n"))),
      schema && resolve(schema).properties ? tree(schema, resolve(schema).required) : null);
  });
}

function show() {
  const entry = operations.get(decodeURIComponent(location.hash.slice(1)));
  const page = byId("operation");
  document.querySelectorAll("nav a").forEach((link) => link.toggleAttribute("aria-current", link.hash === location.hash));
  document.title = entry ? `${entry.operation.summary} – Solmu` : "Solmu: REST interface";
  page.scrollTop = 0;
  if (!entry) {
    page.replaceChildren(make("h1", {}, spec.info.summary), ...prose(spec.info.description));
    return;
  }
  const { operation, verb, path } = entry;
  const out = make("div", { ariaLive: "polite" });
  const form = make("form", {}, make("h2", {}, "Try it"), parameters(operation.parameters), ...body(operation),
    make("p", {}, make("button", {}, "Send")), out);
  form.addEventListener("submit", (event) => { event.preventDefault(); send(entry, form, out); });
  const reasons = operation["x-solmu-reasons"] || [];
  page.replaceChildren(
    make("h1", {}, operation.summary),
    make("p", { className: "path" }, make("span", { className: `verb ${verb}` }, `${verb} `), path),
    ...prose(operation.description),
    reasons.length ? make("p", {}, "Refusals of its own: ", ...reasons.flatMap((reason) => [make("code", {}, reason), " "])) : "",
    form, make("h2", {}, "Answers"), ...answers(operation));
  page.focus({ preventScroll: true });
}

function list() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const groups = new Map();
  for (const [id, entry] of operations) {
    const { operation, verb, path } = entry;
    const text = `${id} ${verb} ${path} ${operation.summary} ${operation.security[0].token.join(" ")}`.toLowerCase();
    if (!words.every((word) => text.includes(word))) continue;
    const group = operation.tags[0];
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(make("a", { href: `#${id}`, title: path }, make("span", { className: `verb ${verb}` }, verb), operation.summary));
  }
  const order = spec.tags.map((tag) => tag.name).filter((name) => groups.has(name));
  byId("operations").replaceChildren(...order.flatMap((name) => [make("h2", {}, name), ...groups.get(name)]));
  document.querySelectorAll("nav a").forEach((link) => link.toggleAttribute("aria-current", link.hash === location.hash));
}

async function start() {
  // Before the document has come: who types meanwhile keeps what was typed.
  byId("client").value = sessionStorage.getItem("client") || "";
  byId("client").addEventListener("change", (event) => sessionStorage.setItem("client", event.target.value.trim()));
  byId("access").addEventListener("submit", (event) => event.preventDefault());
  spec = await (await fetch("/openapi.json")).json();
  operations = new Map();
  for (const [path, item] of Object.entries(spec.paths))
    for (const verb of VERBS) if (item[verb]) operations.set(item[verb].operationId, { path, verb, operation: item[verb] });
  byId("filter").addEventListener("input", list);
  addEventListener("hashchange", show);
  list();
  show();
}

start().catch((error) => byId("operation").replaceChildren(make("p", { role: "alert" }, `The interface cannot be read: ${error.message}`)));
