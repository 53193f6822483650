"""Fetches from moto's S3 server with the built `wharf`, as a user would: a folder, a key, a pin, a kill and the rest.

Run by `cargo xtask verify-fetch`, which provides the packages: moto[s3], flask, flask-cors, boto3.
"""

import argparse
import hashlib
import json
import logging
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "models"
SMALL = {"qwen/config.json": b"{}", "qwen/tokenizer.json": b"[]", "qwen/a b/\u00fc.json": b"{\"x\": 1}"}
LARGE = 256 << 20


def wharf(binary, env, *args):
    command = [binary, "fetch", *args, "--allow-private", "--output", "json"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def fetched(outcome):
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


def refused(outcome, code, words):
    assert outcome.returncode == code, (outcome.returncode, outcome.stderr)
    assert words in outcome.stderr, outcome.stderr


def check_folder(binary, env, work, large):
    out = work / "folder"
    report = fetched(wharf(binary, env, f"s3://{BUCKET}/qwen", "-o", str(out)))
    names = sorted(name.removeprefix("qwen/") for name in [*SMALL, "qwen/model.safetensors"])
    assert sorted(file["path"] for file in report["files"]) == names, report["files"]
    for name, body in SMALL.items():
        assert (out / name.removeprefix("qwen/")).read_bytes() == body
    assert hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() == large
    assert fetched(wharf(binary, env, f"s3://{BUCKET}/qwen", "-o", str(out)))["already_there"]


def check_pin(binary, env, work, large):
    key = f"s3://{BUCKET}/qwen/model.safetensors"
    fetched(wharf(binary, env, key, "-o", str(work / "pinned"), "--digest", f"sha256:{large}"))
    wrong = wharf(binary, env, key, "-o", str(work / "wrong"), "--digest", f"sha256:{'0' * 64}")
    refused(wrong, 1, "was expected")
    assert not (work / "wrong").exists()


def check_kill(binary, env, work, large):
    out = work / "killed"
    command = [binary, "fetch", f"s3://{BUCKET}/qwen/model.safetensors", "-o", str(out), "--allow-private"]
    child = subprocess.Popen([*command, "--connections", "1"], env=env, stderr=subprocess.DEVNULL)
    journal = work / "killed.partial/parts/model.safetensors.part.journal"
    # One line says which version it is; the second is the first range.
    while child.poll() is None and not (journal.exists() and journal.read_text().count(";\n") >= 1):
        time.sleep(0.002)
    assert child.poll() is None, "it was done before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists()
    report = fetched(wharf(binary, env, *command[2:5]))
    assert 0 < report["downloaded"] < LARGE, report["downloaded"]
    assert report["digest"] == f"sha256:{large}"
    return report["downloaded"]


def check_refusals(binary, env, work):
    refused(wharf(binary, env, f"s3://{BUCKET}/gone", "-o", str(work / "x")), 2, "nothing is at")
    refused(wharf(binary, env, "s3://no-such-bucket/x", "-o", str(work / "x")), 1, "check the bucket")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wharf", required=True)
    args = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=keys["AWS_REGION"],
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    for name, body in SMALL.items():
        client.put_object(Bucket=BUCKET, Key=name, Body=body)
    body = os.urandom(1 << 20) * (LARGE >> 20)
    large = hashlib.sha256(body).hexdigest()
    client.put_object(Bucket=BUCKET, Key="qwen/model.safetensors", Body=body)
    env = {"PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": endpoint, **keys}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        check_folder(args.wharf, env, work, large)
        check_pin(args.wharf, env, work, large)
        rest = check_kill(args.wharf, env, work, large)
        check_refusals(args.wharf, env, work)
    server.stop()
    print(f"a folder, a pin, a kill after which {rest >> 20} of {LARGE >> 20} MiB were fetched, and refusals: as expected")


if __name__ == "__main__":
    main()
