package pinion_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pinion-queue/pinion"
	_ "modernc.org/sqlite"
)

// The examples say nothing but what they print.
var quiet = slog.New(slog.DiscardHandler)

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A task takes its arguments as a struct, and may have a queue, a timeout and a retry policy of its own.
func ExampleTask() {
	type resizeArgs struct {
		Path  string `json:"path"`
		Width int    `json:"width"`
	}
	resize := pinion.RegisterTask(pinion.Task[resizeArgs]{
		Name:    "resize",
		Queue:   "images",
		Timeout: time.Minute,
		Retry:   &pinion.RetryPolicy{MaxRetries: 5},
		Run: func(ctx context.Context, args resizeArgs) error {
			fmt.Printf("resizing %s to %d pixels\n", args.Path, args.Width)
			return nil
		},
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()

	// At once, and with anything but the arguments set by hand.
	_, err := resize.Enqueue(ctx, storage, resizeArgs{"cat.jpg", 800})
	check(err)
	urgent := resize.Job(resizeArgs{Path: "dog.jpg", Width: 200})
	urgent.Priority = 10
	check(storage.Enqueue(ctx, urgent))

	worker := &pinion.Worker{Storage: storage, Queues: []string{"images"}, Concurrency: 1, Logger: quiet}
	check(worker.Drain(ctx))
	// Output:
	// resizing dog.jpg to 200 pixels
	// resizing cat.jpg to 800 pixels
}

// Call runs a task in a test, without a worker and a storage.
func ExampleTask_Call() {
	count := pinion.Task[string]{Name: "count", Run: func(ctx context.Context, text string) error {
		if text == "" {
			return pinion.Permanent(errors.New("nothing to count"))
		}
		return pinion.SetResult(ctx, map[string]int{"words": len(strings.Fields(text))})
	}}

	result, err := count.Call(context.Background(), "to be or not to be")
	fmt.Println(string(result), err)
	_, err = count.Call(context.Background(), "")
	fmt.Println(err)
	// Output:
	// {"words":6} <nil>
	// nothing to count
}

// ArgsOf answers the question of many tests: was the job enqueued with these arguments?
func ExampleTask_ArgsOf() {
	type welcomeArgs struct{ To string }
	welcome := pinion.Task[welcomeArgs]{Name: "welcome"}
	signUp := func(ctx context.Context, queue pinion.Enqueuer, address string) error {
		_, err := welcome.Enqueue(ctx, queue, welcomeArgs{To: address})
		return err
	}

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(signUp(ctx, storage, "ada@example.com"))

	for job, err := range storage.Jobs(ctx, pinion.Filter{Task: "welcome"}) {
		check(err)
		args, err := welcome.ArgsOf(job)
		check(err)
		fmt.Println("a welcome to", args.To)
	}
	// Output: a welcome to ada@example.com
}

// sealed is text that only programs with the key can read. In a program the key comes from outside.
type sealed string

var sealKey = must(aes.NewCipher([]byte("0123456789abcdef0123456789abcdef")))

func (s sealed) MarshalText() ([]byte, error) {
	gcm, err := cipher.NewGCMWithRandomNonce(sealKey)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, gcm.Seal(nil, nil, []byte(s), nil)), nil
}

func (s *sealed) UnmarshalText(text []byte) error {
	gcm, err := cipher.NewGCMWithRandomNonce(sealKey)
	if err != nil {
		return err
	}
	box, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return err
	}
	opened, err := gcm.Open(nil, nil, box, nil)
	*s = sealed(opened)
	return err
}

// An argument that encodes itself can encrypt itself. The storage, its backups and the command line never see the text.
func ExampleTask_encryptedArguments() {
	type chargeArgs struct {
		Amount int
		Card   sealed
	}
	charge := pinion.Register("charge card", func(ctx context.Context, args chargeArgs) error {
		fmt.Println("charging", args.Amount, "to", args.Card)
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	job, err := charge.Enqueue(ctx, storage, chargeArgs{Amount: 20, Card: "4000 1234"})
	check(err)

	stored, err := storage.Get(ctx, job.ID)
	check(err)
	fmt.Println("stored in the clear:", strings.Contains(fmt.Sprintf("%s", stored.Kwargs), "4000"))
	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))
	// Output:
	// stored in the clear: false
	// charging 20 to 4000 1234
}

// Positional arguments fill the fields of a struct in the order of declaration. A task of one argument needs no
// struct.
func ExampleNewJob() {
	registry := new(pinion.Registry)
	registry.Add(
		pinion.Task[struct {
			To    string
			Times int
		}]{Name: "greet", Run: func(ctx context.Context, args struct {
			To    string
			Times int
		}) error {
			fmt.Println("hello", args.To, args.Times, "times")
			return nil
		}},
		pinion.Task[string]{Name: "leave", Run: func(ctx context.Context, name string) error {
			fmt.Println("goodbye", name)
			return nil
		}},
	)

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx,
		pinion.NewJob("greet", "world", 3),
		&pinion.Job{Task: "greet", Args: []any{"moon"}, Kwargs: map[string]any{"times": 1}},
		pinion.NewJob("leave", "world"),
	))

	worker := &pinion.Worker{Storage: storage, Registry: registry, Concurrency: 1, Logger: quiet}
	check(worker.Drain(ctx))
	// Output:
	// hello world 3 times
	// hello moon 1 times
	// goodbye world
}

// A task that fails is run again, after a delay that doubles each time.
func ExampleRetryPolicy() {
	pinion.Register("flaky", func(ctx context.Context, url string) error {
		job, _ := pinion.JobFromContext(ctx)
		fmt.Println("attempt", job.Attempts)
		if job.Attempts < 3 {
			return errors.New("the server is busy")
		}
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("flaky", "https://example.com")))

	worker := &pinion.Worker{
		Storage: storage,
		Retry:   &pinion.RetryPolicy{MaxRetries: 5, BaseDelay: time.Millisecond, Cap: time.Second, Jitter: true},
		Logger:  quiet,
	}
	check(worker.Drain(ctx))
	// Output:
	// attempt 1
	// attempt 2
	// attempt 3
}

// What no retry can mend should not be tried again.
func ExamplePermanent() {
	pinion.Register("fetch", func(ctx context.Context, url string) error {
		switch url {
		case "https://example.com/gone":
			return pinion.Permanent(errors.New("404 Not Found"))
		default:
			return pinion.RetryAfter(time.Hour, errors.New("429 Too Many Requests"))
		}
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("fetch", "https://example.com/gone")))

	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))
	m := worker.Metrics()
	fmt.Println("retried", m.Retried, "dead-lettered", m.DeadLettered)
	// Output: retried 0 dead-lettered 1
}

// A task that cannot run yet asks for later. That uses no attempt.
func ExampleSnooze() {
	open := false
	pinion.Register("deliver", func(ctx context.Context, parcel int) error {
		job, _ := pinion.JobFromContext(ctx)
		if !open {
			fmt.Println("closed at attempt", job.Attempts)
			open = true
			return pinion.Snooze(10 * time.Millisecond)
		}
		fmt.Println("delivered at attempt", job.Attempts)
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("deliver", 7)))

	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))
	// Output:
	// closed at attempt 1
	// delivered at attempt 1
}

// Jobs that failed for good wait in the dead-letter queue until somebody has mended what ailed them.
func ExampleInspector_deadLetters() {
	mended := false
	pinion.Register("charge", func(ctx context.Context, customer string) error {
		if !mended {
			return errors.New("the card reader is unplugged")
		}
		fmt.Println("charged", customer)
		return nil
	})

	ctx := context.Background()
	var storage pinion.Storage = pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("charge", "Ada"), pinion.NewJob("charge", "Bob")))
	worker := &pinion.Worker{Storage: storage, Retry: &pinion.RetryPolicy{MaxRetries: 0}, Concurrency: 1, Logger: quiet}
	check(worker.Drain(ctx))

	inspector := storage.(pinion.Inspector)
	for job, err := range inspector.DeadLetters(ctx, pinion.Filter{Task: "charge"}) {
		check(err)
		fmt.Printf("%s %s after %d attempt: %s\n", job.Task, job.Args, job.Attempts, job.Error)
	}

	mended = true
	n, err := inspector.Replay(ctx, pinion.Filter{Task: "charge"})
	check(err)
	fmt.Println("replayed", n)
	check(worker.Drain(ctx))
	// Output:
	// charge ["Ada"] after 1 attempt: the card reader is unplugged
	// charge ["Bob"] after 1 attempt: the card reader is unplugged
	// replayed 2
	// charged Ada
	// charged Bob
}

// A job enqueued in a transaction is there when the transaction commits, and only then.
func ExampleSQLiteStorage_Tx() {
	pinion.Register("ship", func(ctx context.Context, order int) error {
		fmt.Println("shipping order", order)
		return nil
	})

	ctx := context.Background()
	dir, err := os.MkdirTemp("", "pinion")
	check(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "shop.db")
	storage, err := pinion.OpenSQLite(ctx, path, nil)
	check(err)
	defer storage.Close()

	// The same file, opened with the same library: modernc.org/sqlite.
	// With these settings a transaction waits for other writers, workers among them.
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	check(err)
	defer db.Close()
	_, err = db.ExecContext(ctx, "CREATE TABLE orders (id INTEGER PRIMARY KEY)")
	check(err)
	order := func(id int, keep bool) {
		tx, err := db.BeginTx(ctx, nil)
		check(err)
		defer tx.Rollback()
		_, err = tx.ExecContext(ctx, "INSERT INTO orders (id) VALUES (?)", id)
		check(err)
		check(storage.Tx(tx).Enqueue(ctx, pinion.NewJob("ship", id)))
		if keep {
			check(tx.Commit())
		}
	}
	order(1, true)
	order(2, false) // rolled back: no order and no job

	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))
	// Output: shipping order 1
}

// When the context of Run ends, running tasks may finish, and jobs that have not started stay in the queue.
func ExampleWorker_Run() {
	ctx, stop := context.WithCancel(context.Background()) // in a program: signal.NotifyContext
	pinion.Register("upload", func(ctx context.Context, file string) error {
		stop() // as if somebody had pressed Ctrl-C now
		fmt.Println("uploaded", file, "with the context's error", ctx.Err())
		return nil
	})

	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("upload", "a"), pinion.NewJob("upload", "b")))

	worker := &pinion.Worker{Storage: storage, Concurrency: 1, ShutdownTimeout: 30 * time.Second, Logger: quiet}
	check(worker.Run(ctx))
	left, err := storage.Size(context.Background())
	check(err)
	fmt.Println("left in the queue:", left)
	// Output:
	// uploaded a with the context's error <nil>
	// left in the queue: 1
}

// audited is a storage of one's own: here another one, with something added.
type audited struct {
	pinion.Storage
	enqueued atomic.Int64
}

func (a *audited) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	err := a.Storage.Enqueue(ctx, jobs...)
	if err == nil {
		a.enqueued.Add(int64(len(jobs)))
	}
	return err
}

// A storage of your own is right when CheckStorage says so; call it in a test.
func ExampleCheckStorage() {
	err := pinion.CheckStorage(context.Background(), func() (pinion.Storage, error) {
		return &audited{Storage: pinion.NewMemoryStorage()}, nil
	})
	fmt.Println(err)
	// Output: <nil>
}

// Middleware sees every attempt from outside: what came of it, how long it took.
func ExampleWorker_middleware() {
	pinion.Register("halve", func(ctx context.Context, n int) error {
		if n%2 != 0 {
			return pinion.Permanent(errors.New("odd"))
		}
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("halve", 4), pinion.NewJob("halve", 5)))

	var busy time.Duration
	timed := func(next pinion.RunFunc) pinion.RunFunc {
		return func(ctx context.Context, job *pinion.Job) error {
			start := time.Now()
			err := next(ctx, job)
			busy += time.Since(start)
			fmt.Printf("%s %s, attempt %d: %v\n", job.Task, job.Args, job.Attempts, err)
			return err
		}
	}
	worker := &pinion.Worker{Storage: storage, Middleware: timed, Concurrency: 1, Logger: quiet}
	check(worker.Drain(ctx))
	fmt.Println("less than a minute:", busy < time.Minute)
	// Output:
	// halve [4], attempt 1: <nil>
	// halve [5], attempt 1: odd
	// less than a minute: true
}

// Metrics are counted by task. They have the form that expvar publishes.
func ExampleWorker_Metrics() {
	pinion.Register("measured", func(ctx context.Context, n int) error {
		if n == 0 {
			return pinion.Permanent(errors.New("nothing to measure"))
		}
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("measured", 1), pinion.NewJob("measured", 0)))

	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	expvar.Publish("pinion", expvar.Func(func() any { return worker.Metrics() })) // look at /debug/vars
	check(worker.Drain(ctx))
	for _, task := range worker.Metrics().Tasks {
		fmt.Println(task.Task, "succeeded", task.Succeeded, "failed", task.Failed)
	}
	// Output: measured succeeded 1 failed 1
}

// Of jobs with one key at most one is unfinished.
func ExampleDuplicateError() {
	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()

	enqueue := func() error {
		job := pinion.NewJob("report", "2026-01")
		job.Key = "report 2026-01"
		return storage.Enqueue(ctx, job)
	}
	check(enqueue())
	err := enqueue()
	fmt.Println(errors.Is(err, pinion.ErrDuplicate))
	if taken, ok := errors.AsType[*pinion.DuplicateError](err); ok {
		fmt.Println("the key is", taken.Key)
	}
	// Output:
	// true
	// the key is report 2026-01
}

// A job may be due later. Drain does not wait for it; Run does.
func ExampleJob_delayed() {
	pinion.Register("remind", func(ctx context.Context, what string) error {
		fmt.Println("remember:", what)
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	later := pinion.NewJob("remind", "the bread")
	later.RunAt = time.Now().Add(time.Hour)
	check(storage.Enqueue(ctx, later, pinion.NewJob("remind", "the milk")))

	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))
	left, err := storage.Size(ctx)
	check(err)
	fmt.Println("for later:", left)
	// Output:
	// remember: the milk
	// for later: 1
}

// What a task found out stays with the job.
func ExampleSetResult() {
	pinion.Register("measure", func(ctx context.Context, text string) error {
		return pinion.SetResult(ctx, map[string]int{"length": len(text)})
	})

	ctx := context.Background()
	var storage pinion.Storage = pinion.NewMemoryStorage()
	defer storage.Close()
	job := pinion.NewJob("measure", "some text")
	check(storage.Enqueue(ctx, job))
	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))

	done, err := storage.(pinion.Inspector).Get(ctx, job.ID)
	check(err)
	var result struct{ Length int }
	check(json.Unmarshal(done.Result, &result))
	fmt.Println(done.Status, result.Length)
	// Output: SUCCESS 9
}

// A report for each hour. Any number of workers may have the schedule: there is one job for each hour.
func ExamplePeriodic() {
	pinion.Register("report", func(ctx context.Context, hour time.Time) error { return nil })
	hourly := pinion.Periodic{
		Name:     "hourly report",
		Schedule: pinion.Every(time.Hour),
		Job:      func(at time.Time) *pinion.Job { return pinion.NewJob("report", at) },
	}

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	worker := &pinion.Worker{Storage: storage, Periodic: []pinion.Periodic{hourly}, Logger: quiet}
	check(worker.Drain(ctx)) // a program calls Run

	for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusPending}) {
		check(err)
		fmt.Println(job.Task, "is due at a whole hour:", job.RunAt.Equal(job.RunAt.Truncate(time.Hour)))
	}
	// Output: report is due at a whole hour: true
}

// A schedule is any type with a method Next.
func ExampleSchedule() {
	var schedule pinion.Schedule = weekdays{hour: 9}
	friday := time.Date(2026, time.March, 6, 12, 0, 0, 0, time.UTC)
	fmt.Println(schedule.Next(friday).Format(time.RFC1123))
	// Output: Mon, 09 Mar 2026 09:00:00 UTC
}

// weekdays is a schedule with a time for each day from Monday to Friday.
type weekdays struct{ hour int }

func (w weekdays) Next(after time.Time) time.Time {
	for day := after.Day(); ; day++ {
		at := time.Date(after.Year(), after.Month(), day, w.hour, 0, 0, 0, after.Location())
		weekend := at.Weekday() == time.Saturday || at.Weekday() == time.Sunday
		if at.After(after) && !weekend {
			return at
		}
	}
}

// OnEnd sees how each attempt ended: for counters by task, an alarm, or a notification.
func ExampleEnd() {
	pinion.Register("pay", func(ctx context.Context, cents int) error {
		if cents > 1000 {
			return pinion.Permanent(errors.New("card declined"))
		}
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("pay", 500), pinion.NewJob("pay", 5000)))
	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	worker.OnEnd = func(ctx context.Context, job *pinion.Job, end pinion.End) {
		fmt.Println(job.Task, end.Outcome, end.Err)
	}
	check(worker.Drain(ctx))
	// Unordered output:
	// pay succeeded <nil>
	// pay dead-lettered card declined
}

// What a task logs names its job.
func ExampleLogger() {
	pinion.Register("shrink", func(ctx context.Context, image string) error {
		pinion.Logger(ctx).Info("resized", "image", image)
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, &pinion.Job{ID: "job-1", Task: "shrink", Args: []any{"cat.png"}}))
	withoutTime := func(_ []string, attr slog.Attr) slog.Attr {
		if attr.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return attr
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	worker := &pinion.Worker{Storage: storage, Logger: log}
	check(worker.Drain(ctx))
	// Output: level=INFO msg=resized job=job-1 task=shrink attempt=1 image=cat.png
}

// All processes agree on the times of Every, because they are multiples of the interval.
func ExampleEvery() {
	quarterly := pinion.Every(15 * time.Minute)
	at := time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)
	for range 2 {
		at = quarterly.Next(at)
		fmt.Println(at.Format(time.TimeOnly))
	}
	// Output:
	// 03:15:00
	// 03:30:00
}

// Money moves between two accounts exactly once, whatever is killed: the two updates and the end of the job commit
// together.
func ExampleTx() {
	type moveArgs struct {
		From, To string
		Amount   int
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "pinion")
	check(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "bank.db")
	storage, err := pinion.OpenSQLite(ctx, path, nil)
	check(err)
	defer storage.Close()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	check(err)
	defer db.Close()
	_, err = db.ExecContext(ctx, `CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL);
		INSERT INTO accounts (name, balance) VALUES ('Ada', 100), ('Bob', 0)`)
	check(err)

	move := pinion.Register("move", func(ctx context.Context, args moveArgs) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		const add = "UPDATE accounts SET balance = balance + ? WHERE name = ?"
		if _, err := tx.ExecContext(ctx, add, -args.Amount, args.From); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, add, args.Amount, args.To); err != nil {
			return err
		}
		if err := storage.Tx(tx).Done(ctx); err != nil {
			return err // the claim is lost: another worker moves the money, so this one rolls back
		}
		return tx.Commit()
	})
	job, err := move.Enqueue(ctx, storage, moveArgs{From: "Ada", To: "Bob", Amount: 30})
	check(err)
	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))

	ended, err := storage.Get(ctx, job.ID)
	check(err)
	fmt.Println(ended.Status)
	for _, name := range []string{"Ada", "Bob"} {
		var balance int
		check(db.QueryRowContext(ctx, "SELECT balance FROM accounts WHERE name = ?", name).Scan(&balance))
		fmt.Println(name, balance)
	}
	// Output:
	// SUCCESS
	// Ada 70
	// Bob 30
}

// Wait suits a command that starts a job elsewhere and wants its result.
func ExampleWait() {
	square := pinion.Register("square", func(ctx context.Context, n int) error {
		return pinion.SetResult(ctx, n*n)
	})

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	stopped := make(chan error, 1)
	go func() { stopped <- worker.Run(ctx) }() // in a program: another process

	job, err := square.Enqueue(ctx, storage, 12)
	check(err)
	ended, err := pinion.Wait(ctx, storage, job.ID)
	check(err)
	fmt.Println(ended.Status, string(ended.Result))
	stop()
	check(<-stopped)
	// Output: SUCCESS 144
}

// tenantStorage is a storage that wraps another and keeps the powers of that, because it has Unwrap.
type tenantStorage struct {
	pinion.Storage
	tenant string
}

func (s tenantStorage) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	for _, job := range jobs {
		job.Meta = map[string]string{"tenant": s.tenant}
	}
	return s.Storage.Enqueue(ctx, jobs...)
}

func (s tenantStorage) Unwrap() pinion.Storage { return s.Storage }

// As finds what a storage can do beyond Storage, also where another one wraps it.
func ExampleAs() {
	ctx := context.Background()
	var storage pinion.Storage = tenantStorage{pinion.NewMemoryStorage(), "acme"}
	defer storage.Close()
	job := pinion.NewJob("invoice", 2026)
	check(storage.Enqueue(ctx, job))

	inspector, ok := pinion.As[pinion.Inspector](storage)
	if !ok {
		log.Fatal("the storage is not an Inspector")
	}
	stored, err := inspector.Get(ctx, job.ID)
	check(err)
	fmt.Println(stored.Task, "for", stored.Meta["tenant"])
	// Output: invoice for acme
}

// A limit holds over all workers of all processes. 0 pauses a queue.
func ExampleLimiter() {
	pinion.Register("send letter", func(ctx context.Context, to string) error {
		fmt.Println("a letter to", to)
		return nil
	})

	ctx := context.Background()
	var storage pinion.Storage = pinion.NewMemoryStorage()
	defer storage.Close()
	letter := pinion.NewJob("send letter", "Ada")
	letter.Queue = "letters"
	check(storage.Enqueue(ctx, letter))

	limiter, ok := pinion.As[pinion.Limiter](storage)
	if !ok {
		log.Fatal("the storage is not a Limiter")
	}
	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(limiter.SetLimit(ctx, "letters", 0))
	check(worker.Drain(ctx))
	fmt.Println("the queue was paused")
	check(limiter.SetLimit(ctx, "letters", 3)) // from now on at most three at once; -1 lifts the limit
	check(worker.Drain(ctx))
	// Output:
	// the queue was paused
	// a letter to Ada
}

// An event that comes while its job runs must not be lost: that run may have read the document already.
func ExampleJob_keyUntilStart() {
	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	changed := func(document int) {
		job := pinion.NewJob("reindex", document)
		job.Key = fmt.Sprint("reindex ", document)
		job.KeyUntilStart = true
		err := storage.Enqueue(ctx, job)
		switch {
		case errors.Is(err, pinion.ErrDuplicate):
			fmt.Println("changed: a run is waiting already")
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println("changed: enqueued")
		}
	}
	runs := 0
	pinion.Register("reindex", func(ctx context.Context, document int) error {
		runs++
		fmt.Println("run", runs)
		if runs == 1 {
			changed(document) // while the first run is under way
		}
		return nil
	})

	changed(5)
	changed(5)
	worker := &pinion.Worker{Storage: storage, Concurrency: 1, Logger: quiet}
	check(worker.Drain(ctx))
	// Output:
	// changed: enqueued
	// changed: a run is waiting already
	// run 1
	// changed: enqueued
	// run 2
}

type traceKey struct{}

// traced gives a job the trace of ctx, in the form of the W3C: version, trace, the caller's span, flags.
func traced(ctx context.Context, job *pinion.Job) *pinion.Job {
	if trace, ok := ctx.Value(traceKey{}).(string); ok {
		job.Meta = map[string]string{"traceparent": trace}
	}
	return job
}

// traceMiddleware gives the context of a task the trace of its job, with a span of its own.
func traceMiddleware(next pinion.RunFunc) pinion.RunFunc {
	return func(ctx context.Context, job *pinion.Job) error {
		parts := strings.Split(job.Meta["traceparent"], "-")
		if len(parts) == 4 {
			parts[2] = job.ID[len(job.ID)-16:] // in a program: a span of the tracing library
			ctx = context.WithValue(ctx, traceKey{}, strings.Join(parts, "-"))
		}
		return next(ctx, job)
	}
}

// Meta carries the trace of a request to the task that it causes, and on to the jobs that this one causes.
func ExampleJob_meta() {
	traceID := func(ctx context.Context) string {
		trace, _ := ctx.Value(traceKey{}).(string)
		return strings.Split(trace, "-")[1]
	}
	pinion.Register("order", func(ctx context.Context, id int) error {
		fmt.Println("order", id, "in trace", traceID(ctx))
		storage, _ := pinion.StorageFromContext(ctx)
		return storage.Enqueue(ctx, traced(ctx, pinion.NewJob("bill", id)))
	})
	pinion.Register("bill", func(ctx context.Context, id int) error {
		fmt.Println("bill", id, "in trace", traceID(ctx))
		return nil
	})

	// A request has come with the header "traceparent".
	ctx := context.WithValue(context.Background(), traceKey{},
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, traced(ctx, pinion.NewJob("order", 17))))

	worker := &pinion.Worker{Storage: storage, Middleware: traceMiddleware, Logger: quiet}
	check(worker.Drain(context.Background()))
	// Output:
	// order 17 in trace 4bf92f3577b34da6a3ce929d0e0e4736
	// bill 17 in trace 4bf92f3577b34da6a3ce929d0e0e4736
}

// A job that waits is canceled at once. One that runs has its context canceled within a heartbeat.
func ExampleCanceler() {
	ctx := context.Background()
	var storage pinion.Storage = pinion.NewMemoryStorage()
	defer storage.Close()
	job := pinion.NewJob("render", "film.mov")
	check(storage.Enqueue(ctx, job))

	canceler, ok := pinion.As[pinion.Canceler](storage)
	if !ok {
		log.Fatal("the storage is not a Canceler")
	}
	_, _, err := canceler.Cancel(ctx, job.ID)
	check(err)
	left, err := storage.Size(ctx)
	check(err)
	fmt.Println("left in the queue:", left)
	// Output: left in the queue: 0
}

// Verbs over a Filter tend many jobs at once. Here the mails of a queue wait until the mail server is back.
func ExampleFilter() {
	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	for _, to := range []string{"Ada", "Bob"} {
		mail := pinion.NewJob("mail", to)
		mail.Queue = "mails"
		check(storage.Enqueue(ctx, mail))
	}
	check(storage.Enqueue(ctx, pinion.NewJob("backup")))

	n, err := storage.Reschedule(ctx, pinion.Filter{Queue: "mails"}, time.Now().Add(time.Hour))
	check(err)
	fmt.Println("for later:", n)
	stats, err := storage.Stats(ctx)
	check(err)
	fmt.Println("due:", stats.Total.Due, "of", stats.Total.Pending)
	// Output:
	// for later: 2
	// due: 1 of 3
}

// Stats and History cost the same whatever has finished.
func ExampleStats() {
	pinion.Register("thumbnail", func(ctx context.Context, picture int) error {
		if picture == 0 {
			return pinion.Permanent(errors.New("no such picture"))
		}
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("thumbnail", 1), pinion.NewJob("thumbnail", 2),
		pinion.NewJob("thumbnail", 0)))
	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	check(worker.Drain(ctx))

	stats, err := storage.Stats(ctx)
	check(err)
	for _, task := range stats.Tasks {
		fmt.Printf("%s: %d succeeded and %d failed in the last hour\n", task.Task, task.SuccessHour, task.FailedHour)
	}
	fmt.Println("dead letters:", stats.DeadLetters)
	succeeded, failed := 0, 0
	history, err := storage.History(ctx, time.Now().Add(-24*time.Hour))
	check(err)
	for _, ends := range history {
		succeeded += ends.Succeeded
		failed += ends.Failed
	}
	fmt.Println("since yesterday:", succeeded, "and", failed)
	// Output:
	// thumbnail: 2 succeeded and 1 failed in the last hour
	// dead letters: 1
	// since yesterday: 2 and 1
}

// The Stats method of a backend adds up what its database has counted by queue and task.
func ExampleStatsCounter() {
	counted := []struct { // the rows of a query
		queue, task string
		counts      pinion.Counts
	}{
		{"default", "mail", pinion.Counts{Pending: 3, Due: 2}},
		{"slow", "mail", pinion.Counts{Pending: 1}},
		{"default", "resize", pinion.Counts{Running: 4}},
	}
	var counter pinion.StatsCounter
	for _, row := range counted {
		counter.Add(row.queue, row.task, row.counts)
	}
	stats := counter.Stats()
	for _, queue := range stats.Queues {
		fmt.Println("queue", queue.Queue, "has", queue.Pending, "pending and", queue.Running, "running")
	}
	for _, task := range stats.Tasks {
		fmt.Println("task", task.Task, "has", task.Pending, "pending and", task.Running, "running")
	}
	fmt.Println("in all:", stats.Total.Pending, "and", stats.Total.Running)
	// Output:
	// queue default has 3 pending and 4 running
	// queue slow has 1 pending and 0 running
	// task mail has 4 pending and 0 running
	// task resize has 0 pending and 4 running
	// in all: 4 and 4
}

// Two kinds of jobs in one program may have tasks of the same name, each in a Registry of its own.
func ExampleRegistry() {
	english := new(pinion.Registry)
	english.Add(pinion.Task[string]{Name: "greet", Run: func(ctx context.Context, name string) error {
		fmt.Println("hello", name)
		return nil
	}})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("greet", "Ada")))
	worker := &pinion.Worker{Storage: storage, Registry: english, Logger: quiet}
	check(worker.Drain(ctx))
	// Output: hello Ada
}

// A worker ignores names that a task does not know. Check refuses them, for programs in which people type jobs.
func ExampleRegistry_Check() {
	registry := new(pinion.Registry)
	registry.Add(pinion.Task[struct{ To, Subject string }]{Name: "mail",
		Run: func(ctx context.Context, args struct{ To, Subject string }) error { return nil }})

	job := &pinion.Job{Task: "mail", Kwargs: map[string]any{"to": "ada@example.com", "subjct": "hello"}}
	fmt.Println(registry.Check(job))
	// Output: pinion: bad arguments: task "mail": unknown argument "subjct"; it takes To, Subject
}

// A panic is the failure of one attempt. Its error has the value and the stack.
func ExamplePanicError() {
	divide := pinion.Task[int]{Name: "divide", Run: func(ctx context.Context, by int) error {
		fmt.Println(12 / by)
		return nil
	}}
	_, err := divide.Call(context.Background(), 0)
	if panicked, ok := errors.AsType[*pinion.PanicError](err); ok {
		fmt.Println("the task panicked:", panicked.Value)
	}
	// Output: the task panicked: runtime error: integer divide by zero
}

// Finished jobs stay for a while, so that people can look at them.
func ExampleSQLiteOptions() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "pinion")
	check(err)
	defer os.RemoveAll(dir)
	storage, err := pinion.OpenSQLite(ctx, filepath.Join(dir, "jobs.db"), &pinion.SQLiteOptions{
		Retention:           7 * 24 * time.Hour,
		DeadLetterRetention: 90 * 24 * time.Hour,
	})
	check(err)
	defer storage.Close()
	left, err := storage.Size(ctx)
	check(err)
	fmt.Println("left in the queue:", left)
	// Output: left in the queue: 0
}

// A Registry holds tasks of all argument types, and so does a list of them.
func ExampleAnyTask() {
	tasks := []pinion.AnyTask{
		pinion.Task[int]{Name: "square", Run: func(ctx context.Context, n int) error { return nil }},
		pinion.Task[string]{Name: "shout", Run: func(ctx context.Context, text string) error { return nil }},
	}
	registry := new(pinion.Registry)
	registry.Add(tasks...)
	fmt.Println(registry.Names())
	// Output: [shout square]
}

// A producer that only enqueues asks for no more than that. It gets a storage, or a transaction.
func ExampleEnqueuer() {
	signUp := func(ctx context.Context, e pinion.Enqueuer, name string) error {
		return e.Enqueue(ctx, pinion.NewJob("welcome", name))
	}

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	check(signUp(ctx, storage, "Ada"))
	fmt.Println("waiting:", must(storage.Size(ctx)))
	// Output: waiting: 1
}

// A Worker does this for you. Another program may claim jobs itself, and then it ends each claim.
func ExampleStorage() {
	ctx := context.Background()
	var storage pinion.Storage = pinion.NewMemoryStorage()
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("add", 1, 2), pinion.NewJob("add", 3, 4)))

	jobs := must(storage.Dequeue(ctx, pinion.DequeueOptions{Max: 2, NoWait: true}))
	lost := must(storage.MarkDone(ctx, jobs[0]))
	fmt.Println("lost:", len(lost))
	check(storage.MarkFailed(ctx, jobs[1], errors.New("no pencil"), time.Now().Add(time.Hour)))
	err := storage.MarkFailed(ctx, jobs[1], errors.New("no paper"), time.Time{})
	fmt.Println("the claim is over:", errors.Is(err, pinion.ErrLeaseLost))
	// Output:
	// lost: 0
	// the claim is over: true
}

// A claim of two tasks, from one queue, that does not wait.
func ExampleDequeueOptions() {
	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	for _, task := range []string{"resize", "crop", "upload"} {
		check(storage.Enqueue(ctx, &pinion.Job{Task: task, Queue: "images"}, pinion.NewJob(task)))
	}
	jobs := must(storage.Dequeue(ctx, pinion.DequeueOptions{
		Max:    10,
		Queues: []string{"images"},
		Tasks:  []string{"Resize", "crop"}, // in any case of letters
		Lease:  time.Minute,
		NoWait: true,
	}))
	for _, job := range jobs {
		fmt.Println(job.Queue, job.Task, job.Status)
	}
	// Output:
	// images resize RUNNING
	// images crop RUNNING
}

// The zero value is an empty storage. It suits tests, and work that may be lost with the process.
func ExampleMemoryStorage() {
	ctx := context.Background()
	var storage pinion.MemoryStorage
	storage.Retention = time.Minute // of finished jobs, of which each takes some memory
	defer storage.Close()
	check(storage.Enqueue(ctx, pinion.NewJob("tidy")))
	fmt.Println("waiting:", must(storage.Size(ctx)))
	// Output: waiting: 1
}

// A job succeeds at its second attempt.
func ExampleStatus() {
	attempts := 0
	fetch := pinion.Task[string]{Name: "fetch", Run: func(ctx context.Context, url string) error {
		attempts++
		if attempts == 1 {
			return errors.New("timeout")
		}
		return nil
	}}
	registry := new(pinion.Registry)
	registry.Add(fetch)

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	job := must(fetch.Enqueue(ctx, storage, "https://example.com"))
	fmt.Println(job.Status)
	retry := &pinion.RetryPolicy{MaxRetries: 1, BaseDelay: time.Millisecond}
	worker := &pinion.Worker{Storage: storage, Registry: registry, Retry: retry, Logger: quiet}
	check(worker.Drain(ctx))
	job = must(storage.Get(ctx, job.ID))
	fmt.Println(job.Status, "after", job.Attempts, "attempts")
	// Output:
	// PENDING
	// SUCCESS after 2 attempts
}

// OnEnd counts what became of the attempts.
func ExampleOutcome() {
	send := pinion.Task[string]{Name: "send", Run: func(ctx context.Context, to string) error {
		if to == "nobody" {
			return pinion.Permanent(errors.New("no such address"))
		}
		return nil
	}}
	registry := new(pinion.Registry)
	registry.Add(send)

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	for _, to := range []string{"Ada", "nobody", "Bob"} {
		must(send.Enqueue(ctx, storage, to))
	}
	counts := make(map[pinion.Outcome]int) // calls of OnEnd come one at a time
	worker := &pinion.Worker{Storage: storage, Registry: registry, Logger: quiet,
		OnEnd: func(ctx context.Context, job *pinion.Job, end pinion.End) { counts[end.Outcome]++ }}
	check(worker.Drain(ctx))
	fmt.Println(counts[pinion.OutcomeSucceeded], pinion.OutcomeSucceeded)
	fmt.Println(counts[pinion.OutcomeDeadLettered], pinion.OutcomeDeadLettered)
	// Output:
	// 2 succeeded
	// 1 dead-lettered
}

// A middleware turns errors of one kind into a snooze.
func ExampleRunFunc() {
	errBusy := errors.New("the printer is busy")
	var patient = func(next pinion.RunFunc) pinion.RunFunc {
		return func(ctx context.Context, job *pinion.Job) error {
			err := next(ctx, job)
			if errors.Is(err, errBusy) {
				return pinion.Snooze(time.Hour)
			}
			return err
		}
	}
	printed := pinion.Task[string]{Name: "print", Run: func(ctx context.Context, text string) error { return errBusy }}
	registry := new(pinion.Registry)
	registry.Add(printed)

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	job := must(printed.Enqueue(ctx, storage, "hello"))
	worker := &pinion.Worker{Storage: storage, Registry: registry, Middleware: patient, Logger: quiet}
	check(worker.Drain(ctx))
	job = must(storage.Get(ctx, job.ID))
	fmt.Println(job.Status, "with", job.Attempts, "attempts")
	// Output: PENDING with 0 attempts
}

// queueOfAll returns a storage with five jobs in two queues: two have succeeded, one has failed for good and two wait.
// It also returns the worker that ran them.
func queueOfAll(ctx context.Context) (*pinion.MemoryStorage, *pinion.Worker) {
	registry := new(pinion.Registry)
	registry.Add(pinion.Task[int]{Name: "resize", Run: func(ctx context.Context, picture int) error {
		if picture == 0 {
			return pinion.Permanent(errors.New("no such picture"))
		}
		return nil
	}})
	storage := pinion.NewMemoryStorage()
	check(storage.Enqueue(ctx, pinion.NewJob("resize", 1), pinion.NewJob("resize", 0), pinion.NewJob("resize", 2)))
	worker := &pinion.Worker{Storage: storage, Registry: registry, Logger: quiet}
	check(worker.Drain(ctx))
	check(storage.Enqueue(ctx, &pinion.Job{Task: "upload", Queue: "slow"}, &pinion.Job{Task: "upload", Queue: "slow"}))
	return storage, worker
}

// Stats has the counts of all jobs, of each queue and of each task.
func ExampleCounts() {
	ctx := context.Background()
	storage, _ := queueOfAll(ctx)
	defer storage.Close()
	total := must(storage.Stats(ctx)).Total
	fmt.Println(total.Pending, "wait, of which", total.Due, "are due")
	fmt.Println(total.SuccessHour, "succeeded in the last hour,", total.FailedHour, "failed")
	// Output:
	// 2 wait, of which 2 are due
	// 2 succeeded in the last hour, 1 failed
}

// Queues are sorted by name. One is listed while it has jobs, or has had an end in the last hour.
func ExampleQueueStats() {
	ctx := context.Background()
	storage, _ := queueOfAll(ctx)
	defer storage.Close()
	for _, queue := range must(storage.Stats(ctx)).Queues {
		fmt.Println(queue.Queue, queue.Pending)
	}
	// Output:
	// default 0
	// slow 2
}

// Tasks are sorted by name.
func ExampleTaskStats() {
	ctx := context.Background()
	storage, _ := queueOfAll(ctx)
	defer storage.Close()
	for _, task := range must(storage.Stats(ctx)).Tasks {
		fmt.Println(task.Task, task.Pending, task.SuccessHour, task.FailedHour)
	}
	// Output:
	// resize 0 2 1
	// upload 2 0 0
}

// History has a day's throughput, by minute, queue and task.
func ExampleEnds() {
	ctx := context.Background()
	storage, _ := queueOfAll(ctx)
	defer storage.Close()
	succeeded, failed := 0, 0
	for _, ends := range must(storage.History(ctx, time.Now().Add(-24*time.Hour))) {
		succeeded += ends.Succeeded
		failed += ends.Failed
	}
	fmt.Println(succeeded, "succeeded,", failed, "failed")
	// Output: 2 succeeded, 1 failed
}

// Metrics count what one Worker has done since it was made.
func ExampleMetrics() {
	ctx := context.Background()
	storage, worker := queueOfAll(ctx)
	defer storage.Close()
	m := worker.Metrics()
	fmt.Println(m.Processed, "attempts:", m.Succeeded, "succeeded,", m.Failed, "failed; dead letters:", m.DeadLettered)
	// Output: 3 attempts: 2 succeeded, 1 failed; dead letters: 1
}

// Tasks are counted one by one.
func ExampleTaskMetrics() {
	ctx := context.Background()
	storage, worker := queueOfAll(ctx)
	defer storage.Close()
	for _, task := range worker.Metrics().Tasks {
		fmt.Println(task.Task, task.Succeeded, task.Failed)
	}
	// Output: resize 2 1
}

// A program that shows a listing bit by bit keeps only the number where the next page begins.
func ExamplePage() {
	ctx := context.Background()
	storage, _ := queueOfAll(ctx)
	defer storage.Close()
	next := int64(0)
	for {
		page := must(storage.JobsPage(ctx, pinion.Filter{Limit: 2}, next))
		fmt.Println("on this page:", len(page.Jobs))
		next = page.Next
		if next == 0 {
			break
		}
	}
	// Output:
	// on this page: 2
	// on this page: 2
	// on this page: 1
}

// Dead letters are grouped by error, so that one look shows what is wrong.
func ExampleLetterGroups() {
	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	for _, cause := range []string{"card declined", "timeout", "card declined"} {
		check(storage.Enqueue(ctx, pinion.NewJob("charge")))
		job := must(storage.Dequeue(ctx, pinion.DequeueOptions{Max: 1}))[0]
		check(storage.DeadLetter(ctx, job, errors.New(cause)))
	}
	groups := must(storage.GroupDeadLetters(ctx, pinion.Filter{}, 0))
	fmt.Println(groups.Letters, "dead letters,", groups.Errors, "errors")
	for _, group := range groups.Groups {
		fmt.Println(group.Count, group.Newest.Error)
	}
	// Output:
	// 3 dead letters, 2 errors
	// 2 card declined
	// 1 timeout
}

// Those who have seen one letter of a group may replay exactly that group.
func ExampleLetterGroup() {
	ctx := context.Background()
	storage, _ := queueOfAll(ctx)
	defer storage.Close()
	groups := must(storage.GroupDeadLetters(ctx, pinion.Filter{}, 0))
	largest := groups.Groups[0]
	replayed := must(storage.Replay(ctx, pinion.Filter{Error: largest.Newest.Error}))
	fmt.Println("replayed", replayed, "of", largest.Count)
	// Output: replayed 1 of 1
}

// Check looks for damage, and for jobs that no worker can run.
func ExampleSQLiteReport() {
	ctx := context.Background()
	dir := must(os.MkdirTemp("", "pinion"))
	defer os.RemoveAll(dir)
	storage := must(pinion.OpenSQLite(ctx, filepath.Join(dir, "jobs.db"), nil))
	defer storage.Close()
	check(storage.SetLimit(ctx, "mail", 0))
	report := must(storage.Check(ctx))
	fmt.Println("damage:", len(report.Damage), "- unusable jobs:", len(report.Unusable), "- paused:", report.Paused)
	// Output: damage: 0 - unusable jobs: 0 - paused: [mail]
}
