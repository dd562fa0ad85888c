"""Threads give way to other processes, and come back."""

from depers.training.threads import ThreadChooser


class Machine:
    """Two cores, on which a batch takes one second with both; another process may want one of them, too."""

    def __init__(self) -> None:
        self.wall, self.processor, self.threads = 0.0, 0.0, 2
        self.is_busy = False

    def compute(self, chooser: ThreadChooser) -> None:
        if self.threads == 2:
            seconds = 5.0 if self.is_busy else 1.0
            self.processor += 1.2 * seconds if self.is_busy else 1.95 * seconds
        else:
            seconds = 2.5 if self.is_busy else 1.9
            self.processor += 0.8 * seconds if self.is_busy else seconds
        self.wall += seconds
        chooser.count_batch()

    def set_threads(self, count: int) -> None:
        self.threads = count


def run(machine: Machine, chooser: ThreadChooser, batches: int) -> float:
    """Return the seconds per batch; every tenth ends an epoch, after which a validation takes its time."""
    seconds = 0.0
    for first in range(0, batches, 10):
        chooser.resume()
        start = machine.wall
        for _ in range(min(10, batches - first)):
            machine.compute(chooser)
        seconds += machine.wall - start
        chooser.pause()
        machine.wall += 100
        machine.processor += 20
    return seconds / batches


def test_threads_give_way_and_come_back() -> None:
    machine = Machine()
    chooser = ThreadChooser(2, machine.set_threads, lambda: machine.wall, lambda: machine.processor)
    assert run(machine, chooser, 400) == 1.0  # nothing is tried where nothing is in the way
    machine.is_busy = True
    run(machine, chooser, 40)
    assert chooser._threads == 1
    assert run(machine, chooser, 600) < 2.6  # trials included
    machine.is_busy = False
    run(machine, chooser, 300)
    assert chooser._threads == 2 and run(machine, chooser, 200) == 1.0


def test_few_images_are_enough_to_give_way() -> None:
    machine = Machine()
    machine.is_busy = True
    chooser = ThreadChooser(2, machine.set_threads, lambda: machine.wall, lambda: machine.processor, window=2)
    run(machine, chooser, 3)
    assert chooser._threads == 1
    assert run(machine, chooser, 400) < 2.6
    machine.is_busy = False
    run(machine, chooser, 300)
    assert chooser._threads == 2 and run(machine, chooser, 200) == 1.0


def test_a_single_thread_stays_one() -> None:
    machine = Machine()
    chooser = ThreadChooser(1, machine.set_threads, lambda: machine.wall, lambda: machine.processor)
    run(machine, chooser, 100)
    assert machine.threads == 1
