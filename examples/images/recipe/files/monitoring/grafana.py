#!/usr/bin/python3
# A stand-in for Grafana, as far as compose files and their scripts use it: one administrator,
# data sources (provisioned or posted), dashboards, queries passed on to a data source.
import base64
import glob
import json
import os
import signal
import sqlite3
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import yaml

login = os.getenv("GF_SECURITY_ADMIN_USER", "admin") + ":" + os.getenv("GF_SECURITY_ADMIN_PASSWORD", "admin")
data = os.getenv("GF_PATHS_DATA", "/var/lib/grafana")
port = int(os.getenv("GF_SERVER_HTTP_PORT", "3000"))


def database():
    db = sqlite3.connect(data + "/grafana.db", timeout=30)
    db.execute("CREATE TABLE IF NOT EXISTS objects (kind, name, body, UNIQUE (kind, name))")
    return db


def put(kind, name, body):
    with database() as db:
        db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", (kind, name, json.dumps(body)))
        return db.execute("SELECT rowid FROM objects WHERE kind = ? AND name = ?", (kind, name)).fetchone()[0]


def all_of(kind):
    with database() as db:
        return [dict(json.loads(body), id=id) for id, body in db.execute("SELECT rowid, body FROM objects WHERE kind = ? ORDER BY name", (kind,))]


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        text = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def handle_one(self, body):
        path = urlsplit(self.path).path
        if path == "/api/health":
            database().close()
            return 200, {"database": "ok", "version": "stand-in"}
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(login.encode()).decode():
            return 401, {"message": "Unauthorized"}
        if path == "/api/datasources" and body is not None:
            return 200, {"id": put("datasource", body["name"], body), "message": "Datasource added"}
        if path == "/api/datasources":
            return 200, all_of("datasource")
        if path == "/api/dashboards/db" and body is not None:
            return 200, {"id": put("dashboard", body["dashboard"]["title"], body["dashboard"]), "status": "success"}
        if path == "/api/search":
            return 200, [{"id": d["id"], "title": d["title"]} for d in all_of("dashboard")]
        if path.startswith("/api/datasources/proxy/"):
            number, _, rest = self.path.removeprefix("/api/datasources/proxy/").partition("/")
            for source in all_of("datasource"):
                if str(source["id"]) == number:
                    with urllib.request.urlopen(source["url"].rstrip("/") + "/" + rest, timeout=30) as r:
                        return r.status, json.load(r)
        return 404, {"message": "Not found"}

    def do_GET(self, body=None):
        try:
            status, answer = self.handle_one(body)
        except (OSError, KeyError, ValueError, sqlite3.Error) as e:
            status, answer = 502, {"message": str(e)}
        self.answer(status, answer)

    def do_POST(self):
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError as e:
            return self.answer(400, {"message": str(e)})
        self.do_GET(body)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for name in sorted(glob.glob("/etc/grafana/provisioning/datasources/*.y*ml")):
    with open(name) as f:
        for source in (yaml.safe_load(f) or {}).get("datasources") or []:
            put("datasource", source["name"], source)
print("HTTP Server Listen on", port, flush=True)
ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
