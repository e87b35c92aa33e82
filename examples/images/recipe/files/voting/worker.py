# Moves votes from the list "votes" of redis to the table "votes" of postgres, a row a voter.
import json
import sys
import time

import psycopg2
from redis import Redis
from redis.exceptions import ConnectionError as RedisGone


def connect():
    while True:
        try:
            db = psycopg2.connect(host="db", user="postgres", password="postgres", dbname="postgres")
            db.autocommit = True
            db.cursor().execute("CREATE TABLE IF NOT EXISTS votes (id VARCHAR(255) NOT NULL UNIQUE, vote VARCHAR(255) NOT NULL)")
            print("connected to db", flush=True)
            return db
        except psycopg2.OperationalError as e:
            print("waiting for db:", e, file=sys.stderr, flush=True)
            time.sleep(1)


redis, db = Redis(host="redis"), connect()
while True:
    try:
        _, text = redis.blpop("votes")
    except RedisGone as e:
        print("waiting for redis:", e, file=sys.stderr, flush=True)
        time.sleep(1)
        continue
    vote = json.loads(text)
    while True:
        try:
            db.cursor().execute(
                "INSERT INTO votes VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET vote = EXCLUDED.vote",
                (vote["voter_id"], vote["vote"]),
            )
            break
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as e:
            print("db is gone:", e, file=sys.stderr, flush=True)
            db = connect()
    print("processed a vote for", vote["vote"], "by", vote["voter_id"], flush=True)
