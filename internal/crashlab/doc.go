// Package crashlab holds Pinion's three laboratories.
//
//   - The crash laboratory, [Lab], runs processes that share one queue, kills, stops and replaces them while
//     they work, and then checks whether every promise of package pinion was kept.
//   - The model, [Model], plays random calls on storages and on a plain reference, and compares every answer.
//   - The power laboratory, which is only in the tests of this package, loses what SQLite had not yet synced
//     to disk.
//
// [Flaky] is a storage whose calls fail at random.
//
// # The crash laboratory
//
// [Lab.Run] is the parent. It runs in a test and starts the same test binary again for each of its children;
// see [ChildMain]. Children open the storage with [pinion.Open], so the laboratory works with any backend.
// All processes append to one log what they try and what the storage answered. At the end a judge compares
// the log with what is stored. The [Report] lists what it found; Violations must be empty.
//
// What the laboratory cannot show:
//
//   - It kills processes and not the machine, so what a process has written is still in the operating
//     system's cache. The power laboratory covers that.
//   - It cannot repeat a run exactly. The seed fixes the choices of the laboratory, but not those of the
//     operating system's scheduler.
//   - A process that is stopped while it holds the write lock of a file keeps the lock. The report counts how
//     long others waited meanwhile apart from other waits.
//
// One loss is known and not a violation. After its second lost lease a job becomes due at a random time
// within Attempts × visibility. A job that runs for longer than that may run beside a job that kills its
// process each time, and be dead-lettered with it. The report counts such jobs as Innocent.
package crashlab
