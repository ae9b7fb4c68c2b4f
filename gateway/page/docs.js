// Draws an OpenAPI description with a form for each operation, and sends the forms' requests. It contains nothing
// specific to Carillon's API.

const METHODS = ["get", "post", "put", "patch", "delete"];
const EXAMPLE_DEPTH_MAX = 6;

const $ = (id) => document.getElementById(id);
let api = null;
let fields = 0; // the number of form fields so far, for ids that connect a label with its field

function element(tag, className, content, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined && content !== null) node.textContent = content;
  node.append(...children);
  return node;
}

/** An element with a text. Words between backticks become code. */
function prose(tag, className, content) {
  const parts = (content ?? "").split("`");
  const nodes = parts.map((part, index) => (index % 2 ? element("code", "", part) : part));
  return element(tag, className, null, ...nodes);
}

/** Follows a `$ref` to a named schema; any other schema is returned as it is. */
function resolve(document, schema) {
  const name = schema?.$ref?.match(/^#\/components\/schemas\/(.+)$/)?.[1];
  return name ? document.components.schemas[name] : schema ?? {};
}

/** An example value for a schema. */
function example(document, schema, depth = 0) {
  const found = resolve(document, schema);
  if (found.example !== undefined) return found.example;
  if (depth > EXAMPLE_DEPTH_MAX) return null;
  const choices = found.oneOf ?? found.anyOf;
  if (choices) return example(document, choices.find((choice) => choice.type !== "null") ?? choices[0], depth + 1);
  if (found.allOf) return Object.assign({}, ...found.allOf.map((part) => example(document, part, depth + 1)));
  if (found.enum) return found.enum[0];
  const type = [found.type].flat().find((name) => name !== "null");
  if (type === "array") return [example(document, found.items, depth + 1)];
  if (type === "integer" || type === "number") return found.minimum ?? 0;
  if (type === "boolean") return false;
  if (type === "string") return found.format === "date-time" ? "2026-01-01T00:00:00.000Z" : "string";
  const named = Object.entries(found.properties ?? {});
  return Object.fromEntries(named.map(([name, property]) => [name, example(document, property, depth + 1)]));
}

function json(value) {
  return JSON.stringify(value, null, 2);
}

function bodySchema(holder) {
  return holder?.content?.["application/json"]?.schema;
}

/** The first text of a request's body: an example of its required fields. The others are described below the field. */
function firstBody(schema) {
  const whole = example(api, schema);
  const required = resolve(api, schema).required ?? [];
  const needed = Object.fromEntries(Object.entries(whole).filter(([name]) => required.includes(name)));
  return json(needed);
}

function field(label, hint, input, required) {
  input.id = `field-${(fields += 1)}`;
  const title = element("label", "", label);
  title.htmlFor = input.id;
  if (!required) title.append(" ", element("span", "", "optional"));
  const node = element("div", "field", null, title, input);
  if (hint) {
    const note = prose("p", "hint", hint);
    note.id = `${input.id}-hint`;
    input.setAttribute("aria-describedby", note.id);
    node.append(note);
  }
  return node;
}

function parameterFields(operation) {
  return (operation.parameters ?? []).map((parameter) => {
    const input = element("input");
    input.required = Boolean(parameter.required);
    input.spellcheck = false;
    const where = parameter.in === "header" ? `${parameter.name} (header)` : parameter.name;
    const label = field(where, parameter.description, input, parameter.required);
    return { parameter, input, label };
  });
}

/** The URL and the headers of a request with these parameters. */
function request(path, filled) {
  const query = new URLSearchParams();
  const headers = {};
  let target = path;
  for (const { parameter, value } of filled) {
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value === "") continue;
    else if (parameter.in === "query") query.set(parameter.name, value);
    else headers[parameter.name] = value;
  }
  const search = query.toString();
  return { url: search ? `${target}?${search}` : target, headers };
}

async function send(method, path, parameters, body) {
  const filled = parameters.map(({ parameter, input }) => ({ parameter, value: input.value.trim() }));
  const { url, headers } = request(path, filled);
  const secret = $("secret").value.trim();
  if (secret) headers.Authorization = `${$("scheme").value} ${secret}`;
  if (body) headers["Content-Type"] = "application/json";
  const started = performance.now();
  const response = await fetch(url, { method: method.toUpperCase(), headers, body: body?.value });
  const text = await response.text();
  const took = Math.round(performance.now() - started);
  let shown = text;
  try {
    shown = json(JSON.parse(text));
  } catch {
    // The answer is not JSON and is shown as it is.
  }
  return `${response.status} ${response.statusText}, ${took} ms\n\n${shown}`;
}

function responses(operation) {
  const list = element("dl", "responses");
  for (const [status, response] of Object.entries(operation.responses ?? {})) {
    list.append(element("dt", "", status), prose("dd", "", response.description));
  }
  return list;
}

function answerExample(operation) {
  // If there are 200 and 201, show the 201: a first request gets that one.
  const done = Object.entries(operation.responses ?? {}).findLast(([status]) => status.startsWith("2"));
  const schema = done && bodySchema(done[1]);
  return schema ? [element("h3", "", `Answer ${done[0]}`), element("pre", "", json(example(api, schema)))] : [];
}

function form(method, path, operation) {
  const parameters = parameterFields(operation);
  const schema = bodySchema(operation.requestBody);
  const body = schema && element("textarea");
  const result = element("pre");
  result.hidden = true;
  result.setAttribute("role", "status");
  const button = element("button", "primary", "Send");
  const node = element("form", "inside", null, ...parameters.map(({ label }) => label));
  if (body) {
    body.value = firstBody(schema);
    body.rows = body.value.split("\n").length + 2;
    body.spellcheck = false;
    const all = Object.entries(resolve(api, schema).properties ?? {});
    const list = element("dl", "responses");
    for (const [name, property] of all) {
      const about = property.description ?? [property.type].flat().filter((type) => type !== "null").join();
      list.append(element("dt", "", name), prose("dd", "", about));
    }
    node.append(field("Body", null, body, true), list);
  }
  node.append(button, result);
  node.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      result.textContent = await send(method, path, parameters, body);
    } catch (error) {
      result.textContent = `The server did not answer: ${error.message}`;
    }
    result.hidden = false;
    button.disabled = false;
  });
  return node;
}

function operationNode(method, path, operation) {
  const summary = element("summary", "", null,
    element("span", "method", method.toUpperCase()),
    element("span", "path", path),
    element("span", "summary", operation.summary ?? ""));
  const node = element("details", "operation", null, summary);
  // Draw the details only when they are first opened, because most never are.
  node.addEventListener("toggle", () => {
    if (!node.open || node.childElementCount > 1) return;
    const about = element("div", "inside", null);
    if (operation.description) about.append(prose("p", "", operation.description));
    about.append(...answerExample(operation), element("h3", "", "Responses"), responses(operation));
    node.append(form(method, path, operation), about);
  });
  return node;
}

function draw() {
  $("title").textContent = `${api.info.title} API`;
  $("version").textContent = api.info.version;
  $("about").replaceWith(prose("p", "", api.info.description));
  for (const { name } of api.tags ?? []) {
    const section = element("section", "", null, element("h2", "", name));
    for (const [path, item] of Object.entries(api.paths)) {
      const here = METHODS.filter((method) => item[method]?.tags?.includes(name));
      section.append(...here.map((method) => operationNode(method, path, item[method])));
    }
    $("operations").append(section);
  }
}

async function start() {
  try {
    const response = await fetch("/api/openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    api = await response.json();
    draw();
  } catch (error) {
    $("problem").textContent = `The description could not be read (${error.message}). Reload to try again.`;
  }
}

$("credentials").addEventListener("submit", (event) => event.preventDefault());
start();
