package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http/httptest"
	"os/exec"
	"time"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"

	"github.com/pinion-queue/pinion/web/internal/chromium"
)

func asynqPeer() peer {
	of := func(name, state string) list {
		return list{
			name, "queues/default?status=" + state,
			[]string{"api/queues/default/" + state + "_tasks?page=1&size=20", "api/queues/default"}, "tbody tr",
		}
	}
	return peer{"asynqmon", openAsynq, []list{
		of("pending", "pending"), of("succeeded", "completed"), of("dead", "archived"),
	}}
}

type asynqHouse struct {
	redis     *exec.Cmd
	addr      asynq.RedisClientOpt
	client    *asynq.Client
	inspector *asynq.Inspector
	monitor   *asynqmon.HTTPHandler
	server    *httptest.Server
}

func openAsynq(ctx context.Context, dir string) (house, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	err = free.Close()
	if err != nil {
		return nil, err
	}
	redis := exec.CommandContext(ctx, "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "everysec")
	err = redis.Start()
	if err != nil {
		return nil, err
	}
	opt := asynq.RedisClientOpt{Addr: addr}
	monitor := asynqmon.New(asynqmon.Options{RedisConnOpt: opt})
	h := &asynqHouse{redis, opt, asynq.NewClient(opt), asynq.NewInspector(opt), monitor, httptest.NewServer(monitor)}
	for { // until the server answers
		_, err = h.inspector.Queues()
		if err == nil {
			return h, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, h.close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (h *asynqHouse) fill(ctx context.Context, work []job) error {
	end, wait := split(work)
	server := asynq.NewServer(h.addr, asynq.Config{
		Concurrency: 50, TaskCheckInterval: time.Millisecond, LogLevel: asynq.FatalLevel,
		Queues: map[string]int{"default": 1, "mail": 1, "reports": 1},
	})
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		var a args
		err := json.Unmarshal(t.Payload(), &a)
		if err != nil {
			return err
		}
		return a.run()
	}))
	if err != nil {
		return err
	}
	err = h.enqueue(ctx, end)
	if err != nil {
		return err
	}
	for {
		left := 0
		for _, queue := range []string{"default", "mail", "reports"} {
			info, err := h.inspector.GetQueueInfo(queue)
			if err != nil {
				return err
			}
			left += info.Pending + info.Active
		}
		if left == 0 {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	server.Shutdown()
	return h.enqueue(ctx, wait)
}

func (h *asynqHouse) enqueue(ctx context.Context, jobs []job) error {
	for _, j := range jobs {
		payload, err := json.Marshal(j.args)
		if err != nil {
			return err
		}
		_, err = h.client.EnqueueContext(ctx, asynq.NewTask(j.task, payload),
			asynq.Queue(j.queue), asynq.MaxRetry(0), asynq.Retention(24*time.Hour))
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *asynqHouse) url() string { return h.server.URL + "/" }

func (h *asynqHouse) dead(context.Context) (n int, err error) {
	for _, queue := range []string{"default", "mail", "reports"} {
		info, err := h.inspector.GetQueueInfo(queue)
		if err != nil {
			return 0, err
		}
		n += info.Archived
	}
	return n, nil
}

// replay runs all archived tasks, a queue after the other. Nothing filters by error, so that is all there is.
func (h *asynqHouse) replay(ctx context.Context, page *chromium.Page, failure string) error {
	if failure != "" {
		return errors.ErrUnsupported
	}
	for i, queue := range []string{"default", "mail", "reports"} {
		var steps []step
		if i > 0 {
			steps = append(steps, step{"nav a", "Queues"})
		}
		steps = append(steps, step{"tbody a", queue}, step{"[class*=Chip]", "Archived"},
			step{"[aria-label=actions]", ""}, step{"li", "Run All"})
		err := walk(ctx, page, steps...)
		if err != nil {
			return err
		}
		err = page.Until(ctx, `() => !document.querySelector('tbody a[href*="/tasks/"]')`)
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *asynqHouse) close() error {
	h.server.Close()
	err := errors.Join(h.client.Close(), h.inspector.Close(), h.monitor.Close(), h.redis.Process.Kill())
	h.redis.Wait() // the signal is its error
	return err
}
