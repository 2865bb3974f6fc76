package web_test

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/web"
)

// The page checks no passwords. Mount it behind the authentication that your program has; this one is HTTP's own.
func ExampleNew() {
	storage := pinion.NewMemoryStorage()
	page := http.StripPrefix("/queue", web.New(storage, &web.Options{Write: true}))
	mux := http.NewServeMux()
	mux.HandleFunc("/queue/", func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(password), []byte("correct horse")) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="queue"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		page.ServeHTTP(w, r)
	})

	server := httptest.NewServer(mux)
	defer server.Close()
	for _, password := range []string{"", "correct horse"} {
		r, err := http.NewRequest("GET", server.URL+"/queue/", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		r.SetBasicAuth("ada", password)
		answer, err := server.Client().Do(r)
		if err != nil {
			fmt.Println(err)
			return
		}
		answer.Body.Close()
		fmt.Println(answer.Status)
	}
	// Output:
	// 401 Unauthorized
	// 200 OK
}

// Arguments may hold what not everybody who sees the page should see.
func ExampleOptions_redact() {
	storage := pinion.NewMemoryStorage()
	job := &pinion.Job{ID: "1", Task: "login", Kwargs: map[string]any{"user": "ada", "password": "hunter2"}}
	if err := storage.Enqueue(context.Background(), job); err != nil {
		fmt.Println(err)
		return
	}
	page := web.New(storage, &web.Options{Redact: func(job *pinion.Job) {
		if _, ok := job.Kwargs["password"]; ok {
			job.Kwargs["password"] = "…"
		}
	}})
	w := httptest.NewRecorder()
	page.ServeHTTP(w, httptest.NewRequest("GET", "/job/1", nil))
	fmt.Println(w.Code)
	// Output: 200
}

// With Write the page can change the queue. With Hosts it answers under these names only.
func ExampleOptions() {
	storage := pinion.NewMemoryStorage()
	page := web.New(storage, &web.Options{
		Write:   true,
		Hosts:   []string{"queue.example.com"},
		MaxWait: time.Hour, // of a job that is due, before healthz complains
	})
	for _, host := range []string{"queue.example.com", "elsewhere.example.net"} {
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequest("GET", "http://"+host+"/", nil))
		fmt.Println(w.Code)
	}
	// Output:
	// 200
	// 421
}

// Prometheus reads the state of the queues without the page.
func ExampleMetrics() {
	storage := pinion.NewMemoryStorage()
	if err := storage.Enqueue(context.Background(), pinion.NewJob("mail")); err != nil {
		fmt.Println(err)
		return
	}
	w := httptest.NewRecorder()
	web.Metrics(storage, nil).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "pinion_queue_jobs{") {
			fmt.Print(line)
		}
	}
	// Output:
	// pinion_queue_jobs{queue="default",state="due"} 1
	// pinion_queue_jobs{queue="default",state="scheduled"} 0
	// pinion_queue_jobs{queue="default",state="running"} 0
}

// Whoever watches your program may ask for the health of the queue without the page.
func ExampleHealth() {
	storage := pinion.NewMemoryStorage()
	mux := http.NewServeMux()
	mux.Handle("/healthz", web.Health(storage, nil))
	mux.Handle("/metrics", web.Metrics(storage, nil))
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 200 ok
}
