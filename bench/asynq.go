package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

func asynqPeers() []*peer {
	return []*peer{{
		name:  "asynq",
		about: "a redis-server of its own, appendonly, fsync each second; looks for jobs each millisecond; deletes finished tasks",
		files: "redis",
		open:  func(_ context.Context, dir string) (queue, error) { return openAsynq(dir) },
		serve: startRedis,
		skip:  []skip{{"batch", "has no call for several tasks"}, {onlyPinions, askedOfUs}},
	}}
}

func addressFile(dir string) string { return filepath.Join(dir, "redis.addr") }

// startRedis starts a server on a free port, with its data in dir, and leaves its address there for other
// processes.
func startRedis(ctx context.Context, dir string) (stop func() error, err error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not installed")
	}
	for range 5 { // somebody else may take the port before the server does
		stop, err = tryRedis(ctx, program, dir)
		if err == nil {
			return stop, nil
		}
	}
	return nil, err
}

func tryRedis(ctx context.Context, program, dir string) (stop func() error, err error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	if err := free.Close(); err != nil {
		return nil, err
	}
	server := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no")
	var output strings.Builder
	server.Stdout, server.Stderr = &output, &output
	if err := server.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	stop = func() error {
		server.Process.Signal(syscall.SIGTERM) // an error means that it has ended
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			return errors.Join(errors.New("redis-server did not stop"), server.Process.Kill(), <-ended)
		}
	}
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close()
	// It answers pings with an error while it reads its file.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-ended:
			return nil, fmt.Errorf("redis-server: %s", strings.TrimSpace(output.String()))
		default:
		}
		err := client.Ping(ctx).Err()
		if err == nil {
			return stop, os.WriteFile(addressFile(dir), []byte(addr), 0o600)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("redis-server does not answer: %w", err), stop())
		}
	}
}

type asynqQueue struct {
	addr      asynq.RedisClientOpt
	client    *asynq.Client
	inspector *asynq.Inspector
	look      *redis.Client
}

func openAsynq(dir string) (queue, error) {
	addr, err := os.ReadFile(addressFile(dir))
	if err != nil {
		return nil, err
	}
	opt := asynq.RedisClientOpt{Addr: string(addr)}
	look := redis.NewClient(&redis.Options{Addr: opt.Addr})
	return &asynqQueue{opt, asynq.NewClient(opt), asynq.NewInspector(opt), look}, nil
}

// enqueue has no call for several tasks to use; it shares them out to as many goroutines as there are producers
// in the largest workload.
func (q *asynqQueue) enqueue(ctx context.Context, payloads ...string) error {
	if len(payloads) == 1 {
		_, err := q.client.EnqueueContext(ctx, asynq.NewTask("task", []byte(payloads[0])))
		return err
	}
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() {
			for j := i; j < len(payloads) && errs[i] == nil; j += len(errs) {
				errs[i] = q.enqueue(ctx, payloads[j])
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (q *asynqQueue) work(_ context.Context, slots int, task func(string)) (func() error, error) {
	server := asynq.NewServer(q.addr, asynq.Config{
		Concurrency: slots, TaskCheckInterval: time.Millisecond, LogLevel: asynq.FatalLevel,
	})
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		task(string(t.Payload()))
		return nil
	}))
	return func() error { server.Shutdown(); return nil }, err
}

// settled asks the two lists themselves: the inspector's call measures memory and much else besides.
func (q *asynqQueue) settled(ctx context.Context, _ int) (bool, error) {
	for _, list := range []string{"asynq:{default}:pending", "asynq:{default}:active"} {
		if n, err := q.look.LLen(ctx, list).Result(); n > 0 || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (q *asynqQueue) counts(context.Context) (waiting, done int, err error) {
	info, err := q.inspector.GetQueueInfo("default")
	if err != nil {
		return 0, 0, err
	}
	return info.Pending, info.ProcessedTotal - info.FailedTotal, nil
}

func (q *asynqQueue) settings(ctx context.Context) ([]string, error) {
	info, err := q.look.InfoMap(ctx, "server").Result()
	if err != nil {
		return nil, err
	}
	settings := []string{"redis_version=" + info["Server"]["redis_version"]}
	for _, name := range []string{"appendonly", "appendfsync"} {
		values, err := q.look.ConfigGet(ctx, name).Result()
		if err != nil {
			return nil, err
		}
		settings = append(settings, name+"="+values[name])
	}
	return settings, nil
}

func (q *asynqQueue) close() error {
	return errors.Join(q.client.Close(), q.inspector.Close(), q.look.Close())
}
