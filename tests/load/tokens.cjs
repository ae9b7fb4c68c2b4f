// Prints COUNT tokens, one a line, each for another user, signed with AUTH_SECRET: node tokens.cjs COUNT PREFIX
"use strict";

const { createHmac } = require("node:crypto");

const LIVES_S = 600;
const [count, prefix] = process.argv.slice(2);
const encoded = (fields) => Buffer.from(JSON.stringify(fields)).toString("base64url");

for (let number = 1; number <= Number(count); number += 1) {
  const nowS = Math.floor(Date.now() / 1000);
  const claims = { sub: `${prefix}-${number}`, name: `Load ${number}`, iat: nowS, exp: nowS + LIVES_S };
  const signed = `${encoded({ alg: "HS256", typ: "JWT" })}.${encoded(claims)}`;
  console.log(`${signed}.${createHmac("sha256", process.env.AUTH_SECRET).update(signed).digest("base64url")}`);
}
