package cli

// topic is a page of the help that concerns several commands. `pinion help NAME` prints it, and so does the
// manual page.
type topic struct {
	name    string
	summary string // one line
	text    string
	// examples are as those of a command; tests run them, too.
	examples string
}

func topics() []topic {
	return []topic{
		{"import", "tasks of Go packages", importTopic, importTopicExamples},
		{"exec", "tasks that are programs", execTopic, execTopicExamples},
		{"shell", "tasks that are a text for the shell", shellTopic, shellTopicExamples},
		{"arguments", "how the arguments of a job are written", argumentsTopic, argumentsTopicExamples},
		{"lines", "a job for each line of standard input", linesTopic, linesTopicExamples},
		{"times", "how times and durations are written", timesTopic, timesTopicExamples},
		{"choosing", "flags that choose jobs", choosingTopic, choosingTopicExamples},
		{"after", "one job after another", afterTopic, afterTopicExamples},
		{"schedules", "jobs at intervals", schedulesTopic, schedulesTopicExamples},
		{"stopping", "signals, and how a worker stops", stoppingTopic, ""},
		{"exit-status", "the exit status of commands", exitStatusTopic, exitStatusTopicExamples},
		{"environment", "variables that commands read", environmentTopic, environmentTopicExamples},
	}
}

const importTopic = `
With --import the tasks are those that Go packages register. PACKAGE is an import
path, or a ./path in the Go module around the current directory; it may be internal.
The module must require Pinion, and its version of Pinion is the one that runs.
Compiling needs the go command.

A package may also register a storage backend, whose addresses --db then takes, so
every command with --db has --import.

--build FILE writes a program that is the whole command with the packages, and the
tasks of --exec, built in. It needs no go command.
`

const importTopicExamples = `# Run the tasks of a package, eight at a time.
pinion worker --import ./internal/tasks --db q.db --concurrency 8
# Make one program of the command and the tasks.
pinion worker --import ./tasks --build ./work && ./work worker --db q.db`

const execTopic = `
With --exec the task NAME is a program. {0}, {1} and {name} in COMMAND, also as part
of a word, stand for the arguments of the job: strings as they are, anything else as
JSON. If one is missing, the job fails for good. {{0}} means {0}. A word stays one
word, whatever the argument is. There is no shell: quotes work as in one, and
| > * $X and the like need --shell; see "pinion help shell".

No argument becomes a command. Beside {0} a word may have letters, digits and
./:=,+@%_- only, and {0} may not stand behind an option that ends in c, e, command,
cmd or eval, as in sh -c {0}. What a program itself makes of an argument only you can
know: in ssh host {0} and env -S {0} it is a command. An argument that begins with -
may look like an option: write -- before it if the program knows that, as in
tar -xf a.tar -- {0}.

A program is found when the worker starts. It runs in the directory in which its job
was enqueued; if that is gone, the attempt fails. With --no-chdir, or if the job has
none, it runs in the worker's own. So write absolute paths of files that are the
worker's, such as the script in sh /srv/convert.sh {0}. The program has:

  standard input    nothing; with --stdin {"args": [...], "kwargs": {...}}
  environment       PINION_JOB_ID, PINION_TASK, PINION_ATTEMPT, PINION_QUEUE, and
                    PINION_DB, so that it can enqueue jobs

There is no terminal. The exit status decides what becomes of the job:

  0                 success; standard output is the result: as JSON if it is one
                    JSON value, else as a string; after 64 KiB it is cut off,
                    which its last line says
  $PINION_NO_RETRY  (100) failure for good: the job becomes a dead letter
  $PINION_RETRY     (75, EX_TEMPFAIL) failure; if the last line on standard output
                    is a TIME, the retry comes after it
  any other         failure; retried as the flags say

--exec-opt thumb:retries=0,timeout=30s is for the jobs of the task thumb alone. The
error of a job is the exit status and the last KiB of both streams; --logs keeps
more, for "pinion logs". If the machine has no room for another process, the job
waits, and the attempt does not count.

When a job times out, is canceled or is lost to another worker, the process group of
its program gets SIGTERM, and after --kill-after SIGKILL; the job has failed,
whatever the exit status. Processes that a program leaves running have a second to
end. On Linux no process that a program starts outlives the worker, even a worker
that is killed, unless it leaves its session and also clears its environment.
Elsewhere programs of a killed worker may live on.
`

const execTopicExamples = `# Arguments by their places and by name.
pinion worker --exec 'pack=gzip -k -- {0}' --exec 'greet=echo Hello, {name}' --drain --db q.db
# One task is not tried again and has 30 seconds; all keep their logs.
pinion worker --exec 'pack=gzip -k -- {0}' --exec-opt pack:retries=0,timeout=30s --logs --drain --db q.db`

const shellTopic = `
With --shell the COMMAND of --exec is a text for /bin/sh, and it never changes. The
arguments are "$1", "$2" and so on, "$@" are all, and "$PINION_ARG_to" is the one
with the name "to". Write "${1:?}" for one that must be there. Everything else is as
with --exec alone; see "pinion help exec".

Keep the quotes, do not pass arguments to eval, and do not calculate with them: bash
runs the command in a[$(…)].
`

const shellTopicExamples = `# A pipe.
pinion worker --shell --exec 'count=sort -u -- "$1" | wc -l' --task-timeout 60 --drain --db q.db
# An argument by its name.
pinion worker --shell --exec 'greet=echo "Hello, $PINION_ARG_name" >> greetings' --drain --db q.db`

const argumentsTopic = `
The arguments of a job are JSON: --args is an array in the order in which the task
declares them, --kwargs an object by their names, and a job may have both. @FILE
reads either from a file and - from standard input. A job takes up to 1 MiB of
arguments. Numbers keep their precision.

Any TASK is accepted, because its worker may be elsewhere. With --import only the
tasks that the packages register are, with arguments that fit them, and the job goes
to the queue of its task unless --queue names another.
`

const argumentsTopicExamples = `# In order, by name, and from a file.
pinion enqueue add --args '[1, 2]' --db q.db
pinion enqueue mail --kwargs '{"to": "ada@example.com"}' --db q.db
pinion enqueue import --args @rows.json --db q.db`

const linesTopic = `
With - behind the task, each line of standard input is a job: a JSON array or object
or, with --lines, a string that is its first argument. -0 takes such strings as
find -print0 prints them. --args and --kwargs then go to every job, in front of its
own. Lines may end in CRLF, and the last one need not end. Empty lines are skipped,
except with -0. Jobs are stored a thousand at a time, or as many as there are when
the input pauses, so tail -f can feed it.

A line that is not such JSON, not UTF-8 or too long is reported with its number. The
other lines are enqueued, and the exit status is 1. With --atomic either all lines
are enqueued or, after a bad line or a held key, none; all jobs stay in memory until
the end, about 1.5 KB a line beside its text. In a --key, {0} and {name} stand for
arguments, so that each job has its own key. --ids prints the ids, and --json each id
with its line.

The name of a file may be any bytes, and an argument is UTF-8. With --base64 each
line or item becomes an argument in base64, and the program decodes it: base64 -d
gives the bytes back. A shell drops line feeds at the end of what $(…) has printed,
so the example adds a / and takes it off again.
`

const linesTopicExamples = `# A job for each row of a file.
pinion enqueue add - --db q.db < rows.jsonl
# A job for each file, unless one for that file waits or runs.
find . -name '*.png' -print0 | pinion enqueue thumb -0 - --key 'thumb {0}' --db q.db
# Names that may be any bytes.
find images -type f -print0 | pinion enqueue sum -0 - --base64 --db q.db
pinion worker --shell --exec 'sum=f=$(printf %s "$1" | base64 -d && echo /) && cksum -- "${f%/}"' --drain --db q.db`

const timesTopic = `
TIME is a duration: "90s", "1h30m", "7d", or plain seconds. A day has 24 hours.

MOMENT is a point in time:

  15:04  15:04:05  5pm     for --at the next such time, today or tomorrow; for
                           --since and --before the last one
  tomorrow 9:00            also today and yesterday
  2026-01-31 15:04         on the local clock; also with T and with seconds, and
                           without a time of day for its begin
  2026-01-31T15:04+01:00   with its offset: what date -Iminutes, date -Iseconds and
                           date --rfc-3339=seconds print
  @1769868240              seconds since 1970, as date +%s prints them
  now

--since and --before also take a TIME, for so long ago.

When the local clock is put forward and skips a time, that is the moment at which it
is put forward. When it is put back and shows a time twice, that is the first of the
two. So nothing is ever due earlier than said. enqueue shows on standard error how it
has understood --at. The zone is that of TZ, a name or rules as POSIX writes them, or
else the machine's.
`

const timesTopicExamples = `# Tonight, tomorrow morning, and in an hour and a half.
pinion enqueue report --at 23:30 --db q.db
pinion enqueue report --at 'tomorrow 9:00' --db q.db
pinion enqueue report --delay 1h30m --db q.db
# What has failed since yesterday noon.
pinion dlq-list --since 'yesterday 12:00' --db q.db`

const choosingTopic = `
list, pending, running, cancel, reschedule, prune and the commands for dead letters
choose jobs by the same flags. A job must match all that are given:

  --task NAME      without regard to case
  --queue NAME
  --status STATUS  where a command is about more than one
  --key KEY
  --error TEXT     a part of its error, with regard to case
  --since MOMENT   added then or later; for dead letters and for prune: ended
  --before MOMENT  added before; for dead letters and for prune: ended
  --limit N        at most so many, the oldest; for list the newest

What changes jobs that flags choose counts them and asks, on a terminal. Elsewhere,
in a script, it changes nothing unless --yes is there. Jobs that are added after the
count are not among them. An ID is always the whole one there; show, wait and logs
also take its last eight digits, if no other id ends so.
`

const choosingTopicExamples = `# What went wrong in the last two hours.
pinion list --status failed --since 2h --db q.db
# Try again now what waits for a retry because of a timeout.
pinion reschedule --error timeout --delay 0 --yes --db q.db
# Give up the mails that nobody has sent yet.
pinion cancel --task mail --status pending --yes --db q.db`

const afterTopic = `
There is no flag that makes a job wait for another. Either the first job enqueues the
second when it is done, or a script waits in between.

The program of a job finds the queue in PINION_DB, so it can enqueue. It does that
last: if it fails before, it is tried again and nothing has been enqueued. If it is
killed right after, it is tried again too; a --key keeps a second job from being
added as long as the first one waits or runs. A Go task that writes to the database
of the queue can do both in one transaction, see Tx.Done.

A script waits for the first job and goes on if it succeeded. It must live as long.

How many run at once is for a limit: "pinion limit QUEUE 1" makes the jobs of a queue
run one by one, whatever the concurrency of the workers is, and it can be changed
while they run.
`

const afterTopicExamples = `# The first job enqueues the second.
pinion worker --shell --exec 'first=echo made && pinion enqueue second --key second' --exec 'second=echo shipped' --drain --db q.db
# A script waits in between.
id=$(pinion enqueue add --args '[1, 2]' --db q.db) && pinion worker --drain --db q.db && pinion wait $id --db q.db && pinion enqueue second --db q.db
# One by one, then two at a time.
pinion limit mail 1 --db q.db && pinion limit mail 2 --db q.db`

const schedulesTopic = `
--every NAME=TIME of a worker runs a task at the multiples of TIME since 1970 in UTC:
24h is midnight. The next run is one job in the queue, so any number of workers may
have the same --every. Runs never overlap, and those that are missed while there is
no worker happen once, late. To end a schedule, stop the workers that have it and
cancel the job that waits.

cron can enqueue too. With a --key it adds nothing while the last run waits or runs.
`

const schedulesTopicExamples = `# Each hour.
pinion worker --exec 'tidy=find /tmp/cache -mtime +7 -delete' --every tidy=1h --db q.db
# In a crontab.
pinion enqueue report --key report --db q.db`

const stoppingTopic = `
SIGINT (^C), SIGTERM, SIGQUIT (^\) or SIGHUP (a closed terminal) stops a worker
gracefully: it takes no more jobs, gives back those that have not started, and waits
for the others. After --shutdown-timeout, or at a second signal, it stops at once. It
ends with 0 then, and so do "pinion web" and "pinion status --watch". Under nohup
SIGHUP has no effect. If nobody reads the log of a worker any more, it stops in the
same way and ends with 1. Under systemd set KillMode=mixed, or systemd stops the
programs of --exec too.

Any other command that a signal ends dies of that signal (at SIGQUIT it exits with
131), so that a script or a loop around it ends as well. Before that it says what it
has done. A drain that a signal ends is not done, and dies of it too.

A worker that is killed with SIGKILL, or with its machine, loses no job: its jobs are
due again some seconds later.
`

const exitStatusTopic = `
  0  done
  1  it failed, or the result of a job was cut off
  2  wrong usage
  3  wait, enqueue --wait: a job failed for good or was canceled
  4  wait, enqueue --wait: a job had not ended when the timeout was over

If several hold for a wait, 4 comes before 3, and 3 before 1. A command that a signal
has ended dies of it, which a shell shows as 128 plus the number of the signal.

If a command has done its work and cannot write its output, it ends with 1 and says
on standard error what it has done, so that nobody does it twice.

The exit status of a program of --exec decides what becomes of its job; see
"pinion help exec".
`

const exitStatusTopicExamples = `# Tell a failure from a job that takes long.
pinion wait --timeout 5m 0199c2b4a1f07000b3c1d2e3f4a5b6c8 --db q.db || echo "it was $?"`

const environmentTopic = `
  PINION_DB               the database where --db is missing; a relative path is one
                          from the current directory
  PINION_NO_UPDATE_CHECK  1: do not look for a newer version once a day, as
                          --no-update-check
  NO_COLOR                anything: no colors
  TERM                    dumb: no colors and no live screen
  TZ                      the zone of the local clock; see "pinion help times"
  TMPDIR                  where --import compiles
  PINION_LOGS             where the logs of programs are, as --logs-dir

The programs of --exec get some more; see "pinion help exec".
`

const environmentTopicExamples = `# Name the queue once.
export PINION_DB=$PWD/q.db; pinion enqueue add --args '[1, 2]' && pinion status`
