// The demo page's screen: it draws the client's state and passes the user's actions to the client.
import { Client, CONVERSATION_ID, conversationIdOf, userIdOf } from "./client.js";

const CONTENT_CHARS_MAX = 5_000;
const PINNED_PX = 60;
const OLDER_PX = 160;
const GROUP_MS = 5 * 60_000;
const TYPING_IDLE_MS = 4_000;
const NOTICE_MS = 8_000;
const SLOW_MS = 1_000; // a message shows "Sending…" only when its send has taken this long
const HUES = 8;

const $ = (id) => document.getElementById(id);
const scroller = $("scroller");
const text = $("text");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

let client = null;
let active = null; // the conversation on the screen
let pinned = true; // whether its newest message is visible
let drawing = false;
let nodes = new Map(); // key -> element of the message list
const drafts = new Map();

function element(tag, className, content, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined) node.textContent = content;
  node.append(...children);
  return node;
}

function button(className, label, action) {
  const node = element("button", className, label);
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

function avatar(userId, name) {
  let sum = 0;
  for (const char of userId) sum = (sum * 31 + char.codePointAt(0)) >>> 0;
  const initials = name.split(/[\s._-]+/).filter(Boolean).slice(0, 2).map((word) => [...word][0]).join("");
  const node = element("span", `avatar hue-${sum % HUES}`, initials.toUpperCase());
  node.ariaHidden = "true";
  return node;
}

// It changes only nodes whose content differs, so that the focus and the screen reader's position stay.
function replaceChildren(parent, signature, build) {
  if (parent.dataset.drawn === signature) return;
  parent.dataset.drawn = signature;
  const focused = [...parent.querySelectorAll("button")].indexOf(document.activeElement);
  parent.replaceChildren(...build());
  parent.querySelectorAll("button")[focused]?.focus();
}

// ---- name and conversations: kept in the address, so that a reload or a link restores them

function readAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const at = fields.get("at") ?? "";
  const joined = [...(fields.get("in") ?? "").split(","), at].filter((id) => CONVERSATION_ID.test(id));
  return { name: (fields.get("name") ?? "").trim(), at, joined: [...new Set(joined)] };
}

function writeAddress() {
  const fields = new URLSearchParams({ name: client.name, at: active?.id ?? "", in: [...client.conversations.keys()].join() });
  history.replaceState(null, "", `#${fields}`);
}

function start() {
  client?.stop();
  client = active = null;
  const { name, at, joined } = readAddress();
  $("welcome").hidden = Boolean(name && joined.length);
  $("chat").hidden = !$("welcome").hidden;
  if (name) $("name").value = name;
  if (at) $("first").value = at;
  if (!$("welcome").hidden) return $("name").focus();
  const userId = userIdOf(name);
  const url = new URL(`/ws/${userId}?name=${encodeURIComponent(name)}`, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  client = new Client({ url: url.href, userId, name, on: { change: draw, message: arrived, notice } });
  for (const id of joined) client.join(id);
  $("me").replaceChildren(avatar(userId, name), element("span", "label", name));
  show(client.conversations.get(at) ?? client.conversations.values().next().value);
  client.connect();
}

function enter(event) {
  event.preventDefault();
  const name = $("name").value.trim();
  if (!name) return $("name").focus();
  const id = conversationIdOf($("first").value);
  const valid = CONVERSATION_ID.test(id);
  $("enter-problem").textContent = valid ? "" : "A conversation is named with letters, digits and . _ : @ -";
  $("first").ariaInvalid = String(!valid);
  if (!valid) return $("first").focus();
  location.hash = new URLSearchParams({ name, at: id });
}

// ---- conversations

function show(conversation) {
  if (active) drafts.set(active.id, text.value);
  active = conversation ?? null;
  nodes = new Map();
  $("messages").replaceChildren();
  text.value = drafts.get(active?.id) ?? "";
  fitText();
  pinned = true;
  if (active) active.unread = 0;
  writeAddress();
  openMenu(false);
  if (!matchMedia("(pointer: coarse)").matches) text.focus();
  draw();
}

function join(event) {
  event.preventDefault();
  const id = conversationIdOf($("join-id").value);
  if (!CONVERSATION_ID.test(id)) return notice("a conversation is named with letters, digits and . _ : @ -");
  const conversation = client.join(id);
  if (!conversation) return;
  $("join-id").value = "";
  show(conversation);
}

function step(distance) {
  const all = [...client.conversations.values()];
  if (all.length) show(all[(all.indexOf(active) + distance + all.length) % all.length]);
}

function openMenu(open) {
  document.body.classList.toggle("menu-open", open);
  $("menu").ariaExpanded = String(open);
  $("room").inert = open;
  if (open) $("sidebar").querySelector("button")?.focus();
}

// ---- messages

function fitText() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

let idle;
function typed() {
  fitText();
  draw();
  clearTimeout(idle);
  const conversation = active;
  if (!conversation) return;
  client.typing(conversation, Boolean(text.value.trim()));
  idle = setTimeout(() => client?.typing(conversation, false), TYPING_IDLE_MS);
}

function send(event) {
  event?.preventDefault();
  const content = text.value.trim();
  if (!content || !active) return;
  const length = [...content].length;
  if (length > CONTENT_CHARS_MAX) return notice(`a message has ${CONTENT_CHARS_MAX} characters at most: this one has ${length}`);
  clearTimeout(idle);
  pinned = true;
  if (!client.send(active, content)) return;
  setTimeout(draw, SLOW_MS + 50);
  text.value = "";
  fitText();
  text.focus();
}

function arrived(conversation, message) {
  if (message.senderId === client.userId) return;
  const seen = conversation === active && pinned && !document.hidden;
  if (!seen) conversation.unread += 1;
  const where = conversation === active ? "" : ` in ${conversation.id}`;
  announce(`${message.senderName}${where}: ${message.content.slice(0, 300)}`);
}

// If many messages arrive together, a screen reader announces their number instead of every message.
let announcements = [];
function announce(line) {
  if (announcements.push(line) > 1) return;
  setTimeout(() => {
    const lines = announcements;
    announcements = [];
    $("announcer").textContent = lines.length > 3 ? `${lines.length} new messages` : lines.join("\n");
  }, 300);
}

let noticeEnd;
function notice(line) {
  clearTimeout(noticeEnd);
  $("notice").textContent = line;
  $("notice").hidden = false;
  noticeEnd = setTimeout(() => ($("notice").hidden = true), NOTICE_MS);
}

// ---- drawing

function draw() {
  if (drawing) return;
  drawing = true;
  // A hidden page gets no animation frames, but its title has to show the number of unread messages.
  const soon = document.hidden ? (action) => setTimeout(action, 100) : requestAnimationFrame;
  soon(() => {
    drawing = false;
    if (!client) return;
    if (active && !client.conversations.has(active.id)) return show(client.conversations.values().next().value);
    drawSidebar();
    drawRoom();
    if (active) drawMessages();
  });
}

function drawSidebar() {
  const all = [...client.conversations.values()];
  const unread = all.reduce((sum, conversation) => sum + conversation.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${active?.id ?? ""} · Carillon`;
  const rows = all.map(({ id, title, unread }) => [id, title || id, unread, id === active?.id]);
  replaceChildren($("conversations"), JSON.stringify(rows), () =>
    rows.map(([id, title, unread, current]) => {
      const row = button("row", undefined, () => show(client.conversations.get(id)));
      row.append(element("span", "hash", "#"), element("span", "label", title));
      if (unread) row.append(element("span", "count", unread), element("span", "unseen", "unread"));
      if (current) row.ariaCurrent = "page";
      return element("li", "", undefined, row);
    }));
  const people = [...client.people].map(([id, status]) => [client.names.get(id) ?? id, id, status]).sort();
  $("people-count").textContent = client.state === "online" ? people.length : "";
  replaceChildren($("people"), JSON.stringify([people, client.state]), () =>
    people.map(([name, id, status]) => {
      const you = id === client.userId ? " (you)" : "";
      const dot = element("span", `dot ${client.state === "online" ? status : "unknown"}`);
      const row = element("li", "person", undefined, avatar(id, name), element("span", "label", name + you), dot);
      row.dataset.user = id;
      if (status !== "active") row.append(element("span", "unseen", status));
      return row;
    }));
}

const CONNECTION = {
  connecting: "Connecting…",
  online: "Connected",
  waiting: "Connection lost, trying again…",
  stopped: "Not connected",
};

function drawRoom() {
  $("title").textContent = active ? active.title || active.id : "No conversation";
  const line = $("connection");
  if (line.dataset.state !== client.state) {
    if (client.state === "online" || client.state === "refused" || line.dataset.state === "online") {
      announce(CONNECTION[client.state] ?? client.reason);
    }
    line.dataset.state = client.state;
  }
  line.firstElementChild.textContent = CONNECTION[client.state] ?? `Refused: ${client.reason}`;
  $("hurry").hidden = client.state !== "waiting" && client.state !== "refused";
  $("leave").hidden = $("compose").hidden = !active;
  const names = [...(active?.typists.values() ?? [])].map(({ name }) => name);
  const who = names.length > 3 ? "Several people" : names.join(", ").replace(/, ([^,]*)$/, " and $1");
  $("typing").textContent = names.length ? `${who} ${names.length > 1 ? "are" : "is"} typing` : "";
  $("jump").hidden = pinned || !active?.unread;
}

function drawMessages() {
  active.trim(pinned);
  const heightBefore = scroller.scrollHeight;
  const firstBefore = $("messages").firstElementChild;
  drawOlder();
  drawList([...active.log, ...active.pending]);
  if (pinned) scroller.scrollTop = scroller.scrollHeight;
  else if (firstBefore !== $("messages").firstElementChild) scroller.scrollTop += scroller.scrollHeight - heightBefore;
  if (scroller.scrollHeight <= scroller.clientHeight + OLDER_PX) client.loadOlder(active);
}

function drawOlder() {
  const [line, load] = $("older").children;
  const waiting = active.loading || active.cursor === null;
  const empty = !active.log.length && !active.pending.length;
  const start = empty ? "Nothing has been said here yet. Say hello." : `The beginning of ${active.title || active.id}`;
  line.textContent = waiting ? "Loading…" : active.more ? "" : start;
  load.hidden = waiting || !active.more;
}

function drawList(messages) {
  const list = $("messages");
  const used = new Set();
  let place = list.firstElementChild;
  const put = (key, build, update) => {
    used.add(key);
    if (!nodes.has(key)) nodes.set(key, build());
    const node = nodes.get(key);
    update?.(node);
    if (node === place) place = place.nextElementSibling;
    else list.insertBefore(node, place);
  };
  let before = null;
  for (const message of messages) {
    const day = message.at.toDateString();
    const newDay = before?.at.toDateString() !== day;
    if (newDay) put(`day ${message.key}`, () => element("li", "day", dayName(message.at)));
    const grouped = !newDay && before.senderId === message.senderId && message.at - before.at < GROUP_MS;
    put(message.key, () => element("li"), (node) => drawMessage(node, message, grouped));
    before = message;
  }
  for (const [key, node] of nodes) {
    if (used.has(key)) continue;
    node.remove();
    nodes.delete(key);
  }
}

function dayName(date) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000);
  return ["Today", "Yesterday"][days] ?? calendar.format(date);
}

function drawMessage(node, message, grouped) {
  const { senderId, senderName, content, at, state, reason, deleted, edited, seq, isAi } = message;
  const mine = senderId === client.userId;
  const waiting = state === "sending" && (client.state !== "online" || Date.now() - at > SLOW_MS);
  const signature = JSON.stringify([content, state, reason, waiting && client.state, deleted, edited, seq, grouped, +at]);
  replaceChildren(node, signature, () => {
    node.className = `message ${state}${mine ? " mine" : ""}${grouped ? " grouped" : ""}${deleted ? " deleted" : ""}`;
    Object.assign(node.dataset, { state, ...(seq && { seq }) });
    const time = element("time", "", clock.format(at));
    time.dateTime = at.toISOString();
    const who = element("p", "who", undefined, element("b", "", mine ? "You" : senderName), isAi ? " · AI " : " ", time);
    const body = element("p", "text", deleted ? "This message was deleted" : content);
    const bubble = element("div", "bubble", undefined, who, body);
    if (edited && !deleted) bubble.append(element("p", "state", "edited"));
    if (waiting) bubble.append(element("p", "state", client.state === "online" ? "Sending…" : "Waiting for the connection"));
    if (state === "failed") bubble.append(failure(message));
    return [avatar(senderId, senderName), bubble];
  });
}

function failure(message) {
  const conversation = active;
  return element("p", "state", `Not sent: ${message.reason} `,
    button("link", "Try again", () => client.retry(conversation, message)), " ",
    button("link", "Discard", () => client.discard(conversation, message)));
}

// ---- the user's actions

function scrolled() {
  pinned = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < PINNED_PX;
  if (pinned && !document.hidden && active) active.unread = 0;
  if (active && scroller.scrollTop < OLDER_PX && !pinned) client.loadOlder(active);
  draw();
}

$("enter").addEventListener("submit", enter);
$("join").addEventListener("submit", join);
$("compose").addEventListener("submit", send);
text.addEventListener("input", typed);
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
scroller.addEventListener("scroll", scrolled, { passive: true });
$("older").lastElementChild.addEventListener("click", () => client.loadOlder(active));
$("jump").addEventListener("click", () => {
  scroller.scrollTop = scroller.scrollHeight;
  text.focus();
});
$("leave").addEventListener("click", () => client.leave(active.id));
$("rename").addEventListener("click", () => (location.hash = new URLSearchParams({ at: active?.id ?? "lobby" })));
$("hurry").addEventListener("click", () => client.hurry());
$("menu").addEventListener("click", () => openMenu(!document.body.classList.contains("menu-open")));
document.addEventListener("click", ({ target }) => {
  if (document.body.classList.contains("menu-open") && !target.closest("#sidebar, #menu")) openMenu(false);
});
document.addEventListener("keydown", (event) => {
  if (!client) return;
  if (event.key === "Escape" && document.body.classList.contains("menu-open")) {
    openMenu(false);
    $("menu").focus();
  }
  if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  step(event.key === "ArrowUp" ? -1 : 1);
});
document.addEventListener("visibilitychange", () => {
  drawing = false; // the requested animation frame may never come
  if (client) scrolled();
});
addEventListener("online", () => client?.hurry());
addEventListener("resize", () => client && draw());
addEventListener("hashchange", start);
start();
