"""Signs tokens as an application's backend does: HS256 (RFC 7518 §3.2) with the standard library only."""

import base64
import hashlib
import hmac
import json
import time

from carillon_server import SECRET


def token_of(user_id, name=None, lives_s=600, secret=SECRET):
    now_s = int(time.time())
    claims = {"sub": user_id, "iat": now_s, "exp": now_s + lives_s, **({"name": name} if name else {})}
    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    signature = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encoded(signature)}"


def part(fields):
    return encoded(json.dumps(fields).encode())


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
