// Signs tokens as an application's backend does (HS256), with the secret of the server under test.
import { createHmac } from "node:crypto";

export const secret = "a secret of the client tests, and of nobody else";
const TOKEN_SECONDS = 3_600;

/** A token for `sub`; `claims` replace the usual ones, and `key` the secret. */
export function token(sub, claims = {}, key = secret) {
  const now = Math.floor(Date.now() / 1_000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, iat: now, exp: now + TOKEN_SECONDS, ...claims })}`;
  return `${signed}.${createHmac("sha256", key).update(signed).digest("base64url")}`;
}

/** A token that expired 60 s ago, which is more than the server's leeway of 5 s. */
export const expired = (sub) => token(sub, { exp: Math.floor(Date.now() / 1_000) - 60 });

export const forged = (sub) => token(sub, {}, "another secret, which the server has never seen");
