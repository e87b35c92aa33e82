# Takes votes: each goes to the list "votes" of redis, with the voter that a cookie names.
import json
import os
import secrets
import socket

from flask import Flask, make_response, request
from redis import Redis

options = os.getenv("OPTION_A", "Cats"), os.getenv("OPTION_B", "Dogs")
redis = Redis(host="redis", socket_timeout=5)
app = Flask(__name__)


@app.route("/", methods=["GET", "POST"])
def vote():
    voter = request.cookies.get("voter_id") or secrets.token_hex(8)
    choice = request.form.get("vote") if request.method == "POST" else None
    if choice:
        app.logger.warning("vote for %s", choice)
        redis.rpush("votes", json.dumps({"voter_id": voter, "vote": choice}))
    page = "<form method=post>%s</form><p>by %s, voted %s</p>\n" % (
        "".join(f"<button name=vote value={c}>{name}</button>" for c, name in zip("ab", options)),
        socket.gethostname(),
        choice or "nothing",
    )
    response = make_response(page)
    response.set_cookie("voter_id", voter)
    return response
