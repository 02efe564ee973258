"""What every backend must do. A subclass gives the fixture `backend`: an empty one, new for each test."""

import threading

import pytest

from pipeline.checksum import checksum
from pipeline.store.backends import WritableBackend, backend_at


class BackendContract:
    """Tests of `pipeline.store.backends.WritableBackend`."""

    @pytest.fixture
    def backend(self) -> WritableBackend:
        raise NotImplementedError

    def test_a_file_holds_its_parts_and_their_checksum_is_returned(self, backend: WritableBackend):
        assert backend.put("a/b.c", [b"one", memoryview(b"two"), b""]) == checksum([b"onetwo"])
        assert backend.read("a/b.c") == b"onetwo" and backend.size("a/b.c") == 6
        assert b"".join(backend.blocks("a/b.c")) == b"onetwo"
        backend.put("empty", [])
        assert backend.read("empty") == b"" and backend.size("empty") == 0

    def test_large_files_come_back_in_blocks(self, backend: WritableBackend):
        data = bytes(range(256)) * 9000
        backend.put("large", [data[:-5], data[-5:]])
        assert backend.read("large") == data
        blocks = list(backend.blocks("large"))
        assert len(blocks) > 1 and b"".join(blocks) == data

    def test_a_part_of_a_file_is_read(self, backend: WritableBackend):
        backend.put("a/b", [bytes(range(200))])
        assert backend.part("a/b", 3, 7) == bytes(range(3, 7)) and backend.part("a/b", 0, 200) == bytes(range(200))
        assert backend.part("a/b", 190, 300) == bytes(range(190, 200)) and backend.part("a/b", 5, 5) == b""

    def test_what_does_not_exist_is_none_or_an_error(self, backend: WritableBackend):
        backend.put("a/b", [b"x"])
        for name in ("b", "a", "a/c", "a/b/c"):
            if name != "a":
                assert backend.read(name) is None and backend.size(name) is None
                with pytest.raises(OSError):
                    list(backend.blocks(name))
        assert backend.files("nowhere") == []

    def test_files_are_listed_in_order_by_folder(self, backend: WritableBackend):
        names = ["a/b/c", "a/b/d", "ab/c", "layer:4/c.0", "pooled@flip/c.0", "z"]
        for name in reversed(names):
            backend.put(name, [name.encode()])
        assert backend.files() == names
        assert backend.files("a") == ["a/b/c", "a/b/d"]
        assert [backend.read(name) for name in names] == [name.encode() for name in names]

    def test_a_file_is_replaced_as_a_whole(self, backend: WritableBackend):
        contents = [b"a" * 70_000, b"b" * 30_000]
        backend.put("f", [contents[0]])
        stop = threading.Event()

        def write() -> None:
            for turn in range(200):
                backend.put("f", [contents[turn % 2]], durable=False)
            stop.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        while not stop.is_set():
            seen.add(backend.read("f"))
        writer.join()
        assert seen <= set(contents)
        backend.sync(["f"])
        assert backend.read("f") == contents[1] and backend.files() == ["f"]

    def test_of_many_that_write_a_new_file_one_succeeds(self, backend: WritableBackend):
        wins: list[tuple[int, int]] = []
        together = threading.Barrier(8)

        def write(who: int) -> None:
            together.wait()
            wins.extend((key, who) for key in range(10) if backend.put_new(f"k/{key}", [b"%d" % who]))

        threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(key for key, _ in wins) == list(range(10))
        assert all(backend.read(f"k/{key}") == b"%d" % who for key, who in wins)

    def test_files_can_be_written_together(self, backend: WritableBackend):
        files = {f"s/{name}": name.encode() for name in ("zarr.json", "a/zarr.json", "a/c.0", "b")}
        backend.put_together(files)
        assert {name: backend.read(name) for name in backend.files()} == files

    def test_a_copy_stays_when_its_source_changes(self, backend: WritableBackend):
        backend.put("a", [b"old"])
        for _ in range(2):
            backend.copy("a", "b/c")
        backend.put("a", [b"new"])
        assert backend.read("b/c") == b"old" and backend.files() == ["a", "b/c"]
        backend.put("b/c", [b"mine"])
        assert backend.read("a") == b"new"

    def test_files_and_folders_are_moved_and_a_move_may_be_repeated(self, backend: WritableBackend):
        backend.put_together({"f": b"f", "d/x": b"x", "d/e/y": b"y", "dd/z": b"z"})
        for _ in range(2):
            backend.move("f", "to/f")
            backend.move("d", "to/d")
        found = {name: backend.read(name) for name in backend.files()}
        assert found == {"to/f": b"f", "to/d/x": b"x", "to/d/e/y": b"y", "dd/z": b"z"}

    def test_files_and_folders_are_deleted(self, backend: WritableBackend):
        backend.put_together({"f": b"", "d/x": b"", "d/e/y": b"", "dd/z": b""})
        for name in ("f", "d", "d", "nothing", "no/thing"):
            backend.delete(name)
        assert backend.files() == ["dd/z"]

    def test_a_folder_is_a_backend_of_its_own(self, backend: WritableBackend):
        backend.put("d/x", [b"x"])
        folder = backend.below("d")
        folder.put("e/y", [b"y"])
        assert folder.files() == ["e/y", "x"] and backend.files() == ["d/e/y", "d/x"]
        assert folder.read("x") == b"x" and folder.name.startswith(backend.name)

    def test_claims_are_held_by_one_or_shared(self, backend: WritableBackend):
        first, second, third = (backend.claim("a") for _ in range(3))
        assert first.acquire()
        assert not second.acquire() and not second.acquire(exclusive=False)
        assert second.owner()
        assert backend.claim("b").acquire()
        assert first.acquire(exclusive=False), "a claim that is held changes its kind"
        assert second.acquire(exclusive=False) and not third.acquire()
        first.release()
        first.release()
        second.release()
        assert third.acquire()
        third.release()

    def test_no_two_threads_are_inside_a_claim(self, backend: WritableBackend):
        inside, most = 0, 0

        def work() -> None:
            nonlocal inside, most
            for _ in range(20):
                claim = backend.claim("a")
                assert claim.acquire(patience=float("inf"))
                inside += 1
                most = max(most, inside)
                inside -= 1
                claim.release()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1

    def test_a_backend_stands_for_its_place(self, backend: WritableBackend):
        assert backend_at(backend) is backend
