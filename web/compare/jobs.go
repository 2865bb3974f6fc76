package main

import (
	"errors"
	"math/rand/v2"
)

// job is a job for every queue.
type job struct {
	queue, task string
	args        args
	waits       bool // nobody runs it
}

// failures are the errors and how many of 1,000 dead jobs have them. Each hits every queue and task, as an outage does.
var failures = []struct {
	text  string
	share int
}{
	{"dial tcp 10.20.0.7:5432: connect: connection refused", 412},
	{"payment provider answered 503 Service Unavailable, after 3 tries; see https://status.example/incidents/2211", 250},
	{"context deadline exceeded", 188},
	{"open /var/lib/uploads/0199c2b4.png: no such file or directory", 100},
	{"invalid e-mail address: missing '@' or angle-addr", 50},
}

var queues = []struct{ queue, task string }{
	{"default", "charge_card"}, {"default", "resize_image"}, {"mail", "send_welcome"}, {"reports", "monthly_report"},
}

// makeJobs makes n jobs, always the same: a hundredth of them fails, a tenth waits, the others succeed.
func makeJobs(n int) []job {
	random := rand.New(rand.NewPCG(1, 2))
	jobs := make([]job, n)
	dead := 0
	for i := range jobs {
		where := queues[i%len(queues)]
		jobs[i] = job{queue: where.queue, task: where.task}
		jobs[i].args = args{
			Order: 48_000_000 + i, Customer: random.IntN(10_000), Locale: []string{"de-AT", "en-GB", "pt-BR"}[i%3],
		}
		switch {
		case i >= n-n/10:
			jobs[i].waits = true
		case dead < n/100 && i%80 < 4: // so that they lie between the others, in every queue
			fails[jobs[i].args.Order] = failureOf(dead)
			dead++
		}
	}
	return jobs
}

func failureOf(dead int) string {
	at := dead * 617 % 1000 // 617 and 1,000 have no common factor, so 1,000 dead jobs have exactly the shares
	for _, f := range failures {
		at -= f.share
		if at < 0 {
			return f.text
		}
	}
	panic("the shares are less than 1,000")
}

// split returns the jobs that end and those that wait.
func split(jobs []job) (end, wait []job) {
	for _, j := range jobs {
		if j.waits {
			wait = append(wait, j)
		} else {
			end = append(end, j)
		}
	}
	return end, wait
}

// args are the arguments of every task. They hold no trace of the error, which a list would show as if it were one.
type args struct {
	Order    int    `json:"order"`
	Customer int    `json:"customer"`
	Locale   string `json:"locale"`
}

// fails are the errors by order.
var fails = make(map[int]string)

// run is what every task does.
func (a args) run() error {
	if text := fails[a.Order]; text != "" {
		return errors.New(text)
	}
	return nil
}
