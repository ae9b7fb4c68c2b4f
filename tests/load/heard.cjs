// The messages that each virtual user sent and received, for both protocols. Both scenarios' processors use it.
"use strict";

const MESSAGES = 3;

const heard = new Map(); // by virtual user

function nextMessage(context, events, done) {
  const { sentAtMs } = heard.get(context.vars.$uuid);
  const clientId = `${context.vars.$uuid}-${sentAtMs.size + 1}`;
  sentAtMs.set(clientId, Date.now());
  Object.assign(context.vars, { clientId, content: `message ${sentAtMs.size} of ${context.vars.$uuid}` });
  done();
}

function assertNoGap(seqs, joinedAt) {
  const gap = seqs.findIndex((seq, index) => seq !== joinedAt + 1 + index);
  if (gap >= 0) throw new Error(`seq ${seqs[gap]} came where ${joinedAt + 1 + gap} was due`);
}

module.exports = { MESSAGES, assertNoGap, heard, nextMessage };
