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
	fmt.Println("it took some time:", busy > 0)
	// Output:
	// halve [4], attempt 1: <nil>
	// halve [5], attempt 1: odd
	// it took some time: true
}

// Metrics have the form that expvar publishes.
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
	expvar.Publish("pinion", expvar.Func(func() any { return worker.Metrics() }))
	check(worker.Drain(ctx))
	fmt.Println(expvar.Get("pinion")) // in a program: import expvar and look at /debug/vars
	// Output: {"processed":2,"succeeded":1,"failed":1,"retried":0,"dead_lettered":1,"canceled":0,"reaped":0,"running":0}
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
