"""Remove each guard of the laws in turn, and see that a named test notices.

    python -m tests.guards

Each row of ``GUARDS`` is an edit of the source that takes one guard away, and the test that must
fail for it. The edits are made in a copy; the tests must pass on the copy before any edit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent


@attrs.frozen
class Guard:
    """One guard.

    Attributes:
        name: What it guards.
        file: Where it is, below the package.
        guard: Its text, which must occur there once.
        gone: The text without it.
        test: The test that must fail then.
    """

    name: str
    file: str
    guard: str
    gone: str
    test: str


_STRACE = "tests/test_strace.py::"
_STORE = "tests/test_object_store.py::"
_CRASH = "tests/test_crashes.py::test_killed_once"

GUARDS = (
    Guard(
        "the intent is written before the create",
        "engine/pipeline.py",
        """            try:
                job = await self.ledger.record(job, move)
            except IllegalMove:  # a callback has found the task of its last attempt meanwhile
                return await self.ledger.get(job.key) or job
            reach("intent stored")
            may_send = partial(self._admission.may_send, ticket)
            answer = await self._service.create(_with_token(request, token), may_send=may_send)
""",
        """            may_send = partial(self._admission.may_send, ticket)
            answer = await self._service.create(_with_token(request, token), may_send=may_send)
            job = await self.ledger.record(job, move)
""",
        "tests/test_pipeline.py::test_the_order_of_things",
    ),
    Guard(
        "a lost reply is never sent again",
        "rules/billing.py",
        "        if answer.sent:\n",
        "        if answer.sent and not answer.reason:\n",
        "tests/test_batch.py::test_lost_replies_are_unresolved_and_never_paid_twice",
    ),
    Guard(
        "a create that a crash cut off is never sent again",
        "engine/resolving.py",
        "lifecycle.lost(ReplyLost(message))",
        "lifecycle.not_sent(ReplyLost(message))",
        f"{_CRASH}[POST written]",
    ),
    Guard(
        "a create needs a slot of the window",
        "rules/pacing.py",
        "    if over <= 0:\n",
        "    if over <= rate.creates:\n",
        "tests/test_pacing.py::test_the_window_holds",
    ),
    Guard(
        "a slot that a crash left open ends at the restart, not before",
        "rules/pacing.py",
        "            ended = now if slot.owner in gone else slot.gives_up_at\n",
        "            continue\n",
        "tests/test_account.py::test_a_killed_process_holds_its_slots_for_one_window_only",
    ),
    Guard(
        "a create is not begun in a slot that has become too old",
        "account.py",
        "        return self._store.clock() < taken.fresh_until\n",
        "        return True\n",
        "tests/test_send_guard.py::test_a_process_that_froze_inside_the_handshake[True]",
    ),
    Guard(
        "a change of the window has ended before the next begins",
        "account.py",
        "ThreadPoolExecutor(1, ",
        "ThreadPoolExecutor(2, ",
        "tests/test_account.py::test_a_change_has_ended_before_the_next_begins",
    ),
    Guard(
        "a create is held back when it was refused at the last moment",
        "transport.py",
        "        if not self.may_send():\n",
        "        if False:\n",
        "tests/test_transport.py::test_a_create_that_may_no_longer_be_sent_sends_no_byte",
    ),
    Guard(
        "a fleet's slot is taken only if nobody else was faster",
        "cluster/slots.py",
        "    WHERE name = %(name)s AND version = %(version)s RETURNING name\n",
        "    WHERE name = %(name)s RETURNING name\n",
        "tests/test_cluster_slots.py::test_a_write_that_others_were_faster_at_is_decided_anew",
    ),
    Guard(
        "a database's clock that is set frees no slot",
        "rules/shared_time.py",
        "    steady = least - TOLERANCE <= told <= most + TOLERANCE\n",
        "    steady = True\n",
        "tests/test_cluster_slots.py::test_a_clock_that_is_set_frees_no_slot",
    ),
    Guard(
        "who has just come believes no time to have passed",
        "rules/shared_time.py",
        "        return Sight(look, kept.version, kept.now)\n",
        "        return Sight(look, kept.version, kept.now + look.told - kept.told)\n",
        "tests/test_cluster_slots.py::test_a_clock_that_is_set_frees_no_slot",
    ),
    Guard(
        "a worker's write needs its lease",
        "cluster/books.py",
        "        if fenced and op.guarded:\n",
        "        if False:\n",
        "tests/test_cluster_ledger.py::test_a_worker_without_its_lease_moves_nothing",
    ),
    Guard(
        "the answer of a create is kept without a lease, too",
        "cluster/ledger.py",
        "otherwise=self._bound(keep))",
        "otherwise=None)",
        "tests/test_cluster_ledger.py::test_a_fenced_workers_receipt_is_kept",
    ),
    Guard(
        "a create of a living worker is left to it",
        "cluster/ledger.py",
        '            if holder["alive"] and not ours:\n',
        "            if False:\n",
        "tests/test_cluster_ledger.py::test_the_creates_of_the_living_are_left_alone",
    ),
    Guard(
        "a fleet's commit without an answer is believed by its own mark only",
        "cluster/books.py",
        "        return bool(last == mark.begun)\n",
        "        return True\n",
        "tests/test_cluster_books.py::test_a_number_that_a_crashed_server_gives_again_is_not_taken_for_ours",
    ),
    Guard(
        "a worker stops trusting a lease that it could not renew",
        "cluster/lease.py",
        "        return not self.lost.is_set() and self._clock() < self._trusted_until\n",
        "        return not self.lost.is_set()\n",
        "tests/test_cluster_lease.py::test_nothing_is_trusted_before_it_was_joined_and_after_it_ran_out",
    ),
    Guard(
        "a task that was paid besides gets a job of its own",
        "cluster/ledger.py",
        "        elif course is Course.EXTRA:\n",
        "        elif False:\n",
        "tests/test_cluster_ledger.py::test_a_receipt_of_an_earlier_create_is_a_job_of_its_own",
    ),
    Guard(
        "a create under way is shielded from cancellation",
        "engine/pipeline.py",
        "            with anyio.CancelScope(shield=True), self._under_way(job.key):\n",
        "            with anyio.CancelScope(shield=False), self._under_way(job.key):\n",
        "tests/test_pipeline.py::test_a_create_under_way_is_seen_through",
    ),
    Guard(
        "a task that a callback names is compared with the job",
        "engine/hints.py",
        "            return not different\n",
        "            return True\n",
        "tests/test_hint_desk.py::test_a_task_of_other_parameters_is_not_adopted",
    ),
    Guard(
        "what a hint means is decided when the record has been read",
        "engine/hints.py",
        "        except IllegalMove:\n            return False\n",
        "        except IllegalMove:\n            return True\n",
        "tests/test_hint_desk.py::test_a_job_that_is_sent_at_the_very_moment_of_its_adoption",
    ),
    Guard(
        "a job is on the road once",
        "engine/following.py",
        " or fresh.key in self._taken",
        "",
        "tests/test_following.py::test_a_step_is_found_twice_at_the_same_time",
    ),
    Guard(
        "a job that was taken since it was listed is looked at again",
        "engine/following.py",
        " or job.key in self._had",
        "",
        "tests/test_following.py::test_who_was_taken_since_its_page_was_read_is_asked_for",
    ),
    Guard(
        "a step that left the list is not paid for",
        "engine/following.py",
        "self._ledger.children(job.key, self._run)",
        "self._ledger.children(job.key)",
        "tests/test_following.py::test_steps_that_left_the_list_stay",
    ),
    Guard(
        "an attempt is kept with its intent",
        "ledger/changes.py",
        """    db.tell("insert_event", past)
    _keep_attempt(db, after, move)
""",
        """    db.tell("insert_event", past)
""",
        "tests/test_ledger_chains.py::test_an_attempt_is_kept_with_its_intent",
    ),
    Guard(
        "leaving a batch outlasts a cancellation",
        "waiting.py",
        "    with anyio.CancelScope(shield=True):\n        while not done():\n",
        "    with anyio.CancelScope(shield=True):\n        while not done() and cancelled is None:\n",
        "tests/test_cancellation.py::test_a_batch_of_a_client_that_lives_on",
    ),
    Guard(
        "a ledger that was cut to nothing is not made anew",
        "ledger/database.py",
        "    if path.is_file() and path.stat().st_size == 0:\n",
        "    if path.is_file() and path.stat().st_size < 0:\n",
        "tests/test_ledger_sqlite.py::test_an_empty_file_is_refused_untouched",
    ),
    Guard(
        "a ledger is of one host",
        "ledger/database.py",
        "    elif row[0] != host:\n",
        "    elif not host:\n",
        "tests/test_batch.py::test_another_hosts_directory_is_refused",
    ),
    Guard(
        "a file is written beside its place and renamed",
        "archive/parts.py",
        """        path = self.folder / f"{name}{SUFFIX}"\n""",
        """        path = self.folder.parent.parent / f"{name}.jpeg"\n""",
        f"{_CRASH}[chunk written]",
    ),
    Guard(
        "a part is synced before it is recorded",
        "archive/parts.py",
        "                os.fsync(self.fileno())\n",
        "                pass\n",
        "tests/test_parts.py::test_bytes_are_synced_before_they_are_recorded",
    ),
    Guard(
        "a part that is taken up is hashed again",
        "archive/parts.py",
        "        if (part.size, part.sha256) == (checkpoint.size, checkpoint.sha256):\n",
        "        if part.size == checkpoint.size:\n",
        "tests/test_parts.py::test_what_was_harmed_starts_over",
    ),
    Guard(
        "a finished file is never written to again",
        "archive/parts.py",
        "found.st_nlink != 1",
        "found.st_nlink < 1",
        "tests/test_fetching_runs.py::test_a_finished_file_is_never_written_to_again",
    ),
    Guard(
        "a rest is of the same version",
        "rules/transfer.py",
        """        return headers.get("ETag") == have.validator.etag\n""",
        "        return True\n",
        "tests/test_fetching.py::test_a_range_that_is_not_the_rest",
    ),
    Guard(
        "a weak validator is none",
        "rules/transfer.py",
        """re.compile(r'"[""",
        """re.compile(r'(W/)?"[""",
        "tests/test_fetching.py::test_a_cut_at_any_byte",
    ),
    Guard(
        "a redirect never leads down to http",
        "archive/links.py",
        """    if url.scheme == "https" and there.scheme != "https":\n""",
        """    if url.scheme != "https" and there.scheme == "https":\n""",
        "tests/test_links.py::test_https_never_leads_down_to_http",
    ),
    Guard(
        "a name that resolves into a private network is refused",
        "archive/addresses.py",
        '        public = [one for one in found if not is_private(one["host"])]\n',
        "        public = found\n",
        "tests/test_addresses.py::test_a_private_name_is_refused",
    ),
    Guard(
        "an address of a private network is refused",
        "archive/addresses.py",
        "        private = is_private_host(host) or (proxied and is_local_name(host))\n",
        "        private = not host\n",
        "tests/test_links.py::test_a_link_into_a_private_network",
    ),
    Guard(
        "a proxy is asked for no name that only its network knows",
        "archive/addresses.py",
        " or (proxied and is_local_name(host))\n",
        "\n",
        "tests/test_proxied_downloads.py::test_a_proxy_is_asked_for_nothing_private",
    ),
    Guard(
        "no proxy reads the key",
        "settings.py",
        "        if (url := readable(self.proxy, (self.base_url, self.upload_url))) is not None:\n",
        "        if (url := readable(None, (self.base_url, self.upload_url))) is not None:\n",
        "tests/test_client_network.py::test_the_key_is_shown_to_no_proxy",
    ),
    Guard(
        "no .netrc takes the key's place",
        "sessions.py",
        "        trust_env=False,\n",
        "        trust_env=True,\n",
        "tests/test_proxied_calls.py::test_the_environment_is_a_setting_and_nothing_else",
    ),
    Guard(
        "a proxy's password leaves with no error",
        "archive/links.py",
        """        refused = why_not(error) or "its host cannot be reached"\n""",
        "        raise LinkRefused(str(why_not(error)), url=link) from None\n",
        "tests/test_proxied_downloads.py::test_a_certificate_that_is_not_trusted",
    ),
    Guard(
        "a host that says the key back is not repeated",
        "transport.py",
        """            return "not an HTTP answer"\n""",
        """            return f"not an HTTP answer ({error})"\n""",
        "tests/test_transport.py::test_a_host_that_says_the_key_back",
    ),
    Guard(
        "a file that was merely found leads through no proxy",
        "rules/config.py",
        "    if found and not setting.fits_found(value):\n",
        "    if found and not setting.name:\n",
        "tests/test_config.py::test_what_a_file_that_was_found_cannot_say",
    ),
    Guard(
        "a file is synced before its name",
        "archive/directory.py",
        "            os.fsync(part.fileno())\n",
        "",
        f"{_STRACE}test_a_file_is_on_disk_before_it_has_its_name",
    ),
    Guard(
        "a file's name is synced",
        "archive/directory.py",
        "                    sync_folder(self.root)\n",
        "",
        f"{_STRACE}test_a_file_is_on_disk_before_it_has_its_name",
    ),
    Guard(
        "the ledger syncs every commit",
        "ledger/sqlite.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = NORMAL",
        f"{_STRACE}test_the_intent_is_on_disk_before_the_create",
    ),
    Guard(
        "the manifest is synced before its name",
        "archive/manifest.py",
        "            await uncut(aiofiles.os.wrap(os.fsync)(out.fileno()))\n",
        "",
        f"{_STRACE}test_the_manifest_is_on_disk_before_it_has_its_name",
    ),
    Guard(
        "a manifest that was torn or lost lines is made anew",
        "archive/manifest.py",
        "if found == files and last ==",
        "if found or last ==",
        "tests/test_run_manifest.py::test_a_resume_mends_the_manifest",
    ),
    Guard(
        "an object is created only if its name is free",
        "archive/object_upload.py",
        'mode="create" if create else "overwrite",\n',
        'mode="overwrite",\n',
        f"{_STORE}test_a_users_object_is_not_overwritten",
    ),
    Guard(
        "an upload is of the bytes that were verified",
        "archive/object_upload.py",
        "            self._check(digest.hexdigest())\n",
        "            pass\n",
        f"{_STORE}test_a_part_file_that_changed_on_disk",
    ),
    Guard(
        "an object that arrived short has no name in the ledger",
        "archive/object_store.py",
        "        if size != upload.size:\n",
        "        if size < 0:\n",
        f"{_STORE}test_an_object_that_arrived_short",
    ),
    Guard(
        "an API call follows no redirect with the key",
        "transport.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "tests/test_transport.py::test_no_redirect_is_followed",
    ),
    Guard(
        "a create has a connection of its own",
        "sessions.py",
        "    shared = lent is not None and not fresh_connections\n",
        "    fresh_connections = False\n    shared = lent is not None\n",
        "tests/test_transport.py::test_a_create_never_reuses_a_connection",
    ),
)


def failing(tree: Path, tests: list[str]) -> bool:
    """Whether these tests fail in this copy."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-m",
        "",
        # Of its own: pytest would tidy up the folders of another one that runs meanwhile.
        f"--basetemp={tree.parent / 'tests'}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [*command, *tests], cwd=tree, env=environment, capture_output=True, text=True, timeout=300
    )
    if ended.returncode not in (0, 1):  # 1: tests ran, and some failed
        raise RuntimeError(f"pytest could not run {tests}:\n{ended.stdout}\n{ended.stderr}")
    return ended.returncode == 1


def copy_of(tree: Path, into: Path) -> Path:
    """A copy of what the tests need."""
    skip = shutil.ignore_patterns("__pycache__", ".*")
    for part in ("kie_mj_async", "tests", "examples"):
        shutil.copytree(tree / part, into / part, ignore=skip)
    for part in ("pyproject.toml", "README.md"):
        shutil.copy(tree / part, into / part)
    return into


def without(guard: Guard, tree: Path) -> tuple[Path, str]:
    """Take a guard away; the file and its text before."""
    path = tree / "kie_mj_async" / guard.file
    text = path.read_text(encoding="utf-8")
    if text.count(guard.guard) != 1:
        raise RuntimeError(f"{guard.name}: its text is not in {guard.file} once; update the row")
    path.write_text(text.replace(guard.guard, guard.gone), encoding="utf-8")
    return path, text


def main() -> int:
    """Run every row; 1 if a guard can go unnoticed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of(ROOT, Path(folder) / "copy")
        if failing(tree, sorted({guard.test for guard in GUARDS})):
            sys.stdout.write("the tests fail with every guard in place\n")
            return 1
        unnoticed = 0
        for guard in GUARDS:
            path, text = without(guard, tree)
            noticed = failing(tree, [guard.test])
            path.write_text(text, encoding="utf-8")
            unnoticed += not noticed
            verdict = "noticed by" if noticed else "NOT NOTICED by"
            sys.stdout.write(f"{guard.name}: {verdict} {guard.test}\n")
            sys.stdout.flush()
        sys.stdout.write(f"{len(GUARDS)} guards removed in turn, {unnoticed} unnoticed\n")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
