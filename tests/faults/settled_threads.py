"""Real threads that a test can wait for."""

from codistill.exchange.checkpoint.background import Background, Threads


class SettledThreads(Background):
    """Threads, and a way to wait until they have done all that they were given."""

    def __init__(self):
        self._threads = Threads()
        self._workers = []

    def worker(self, name):
        self._workers.append(self._threads.worker(name))
        return self._workers[-1]

    def repeat(self, name, job, period_s):
        self._threads.repeat(name, job, period_s)

    def stop(self, timeout_s):
        return self._threads.stop(timeout_s)

    def settle(self):
        for worker in self._workers:
            assert worker.wait(30.0)
