"""A file server in Python, for the load generator to compare with: flask under uwsgi, and psycopg
without a pool, because each process answers one request at a time. It stores the same rows in the
same table as this repository's server. It isn't any server that people run."""

import base64
import hashlib
import os

import flask
import psycopg

DATABASE = os.environ["DATABASE"]
STORE = """
    INSERT INTO files (id, data, uploaded, expiry) VALUES (%s, %s, now(), now() + '3 weeks')
    ON CONFLICT (id) DO UPDATE
    SET uploaded = now(), expiry = greatest(files.expiry, excluded.expiry)
    RETURNING uploaded, expiry"""
FETCH = "SELECT data, expiry FROM files WHERE id = %s AND expiry > now()"

application = flask.Flask(__name__)
connection = None


def run(statement, *values):
    """The first row, or None. The connection is made after uwsgi has made its processes."""
    global connection
    if connection is None or connection.closed:
        connection = psycopg.connect(DATABASE, autocommit=True)
    return connection.execute(statement, values, binary=True).fetchone()


@application.post("/file")
def upload():
    data = flask.request.get_data()
    name = base64.urlsafe_b64encode(hashlib.blake2b(data, digest_size=33).digest()).decode()
    uploaded, expiry = run(STORE, name, data)
    return {
        "id": name,
        "size": len(data),
        "uploaded": uploaded.timestamp(),
        "expires": expiry.timestamp(),
    }


@application.get("/file/<name>")
def download(name):
    row = run(FETCH, name)
    if row is None:
        flask.abort(404)
    response = flask.Response(row[0], mimetype="application/octet-stream")
    response.expires = row[1]
    return response
