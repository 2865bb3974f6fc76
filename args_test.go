//lint:file-ignore SA5008 encoding/json has rules for odd tags too
//lint:file-ignore U1000 some fields are there to be passed over

package pinion

import (
	"bytes"
	order "cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/quick"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The shapes of arguments that these tests use.
type (
	addArgs   struct{ A, B int }
	crawlArgs struct {
		URL     string        `json:"url"`
		Depth   int           `json:"depth,omitempty"`
		Every   time.Duration `json:"every,omitzero"`
		ID      uint64        `json:"id,string"`
		Skipped string        `json:"-"`
		hidden  string
	}
	base struct {
		Tenant string `json:"tenant"`
		Name   string // shadowed in derived
	}
	marker  struct{}
	word    string
	derived struct {
		marker
		base
		Name string
		Tags []string
	}
	everything struct {
		String  string
		Bool    bool
		Int8    int8
		Int64   int64
		Uint64  uint64
		Float64 float64
		Bytes   []byte
		Strings []string
		Map     map[string]int
		ByInt   map[int]string
		Pointer *string
		Array   [3]int16
		Nested  struct{ X, Y int }
		Structs []addArgs
		Quoted  int64   `json:",string"`
		QuotedP *bool   `json:",string"`
		QuotedS string  `json:",string"`
		QuotedF float32 `json:"qf,omitempty,string"`
	}
	nested struct {
		At    time.Time `json:",string"` // encoding/json heeds the option for numbers, booleans and strings only
		Huge  *big.Int
		Value big.Int
		Any   any
		Anys  map[string]any
	}
	box[T any] struct {
		Of   []T
		By   map[string]T
		To   *T
		Deep **T
		Is   T
	}
	hexWord  struct{ text string } // its text is hexadecimal, by value
	reversed struct{ text string } // decodes itself, by pointer
	stamped  struct {
		time.Time // whose methods make this one decode itself
		Lost      int
	}
	pointed struct {
		Word    *hexWord
		Words   map[hexWord]reversed
		Raw     json.RawMessage
		Number  json.Number
		Numbers []json.Number
		Times   []*time.Time
		Bytes   *[]byte
		Matrix  [2][2]*int8
		Box     *box[box[string]]
		Base    *base `json:"base,omitempty"`
	}
	celsius float64
	tree    struct {
		Value    int
		Children []tree
	}
)

func (w hexWord) MarshalText() ([]byte, error) {
	return []byte(hex.EncodeToString([]byte(w.text))), nil
}

func (w *hexWord) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	w.text = string(b)
	return err
}

func (r reversed) MarshalJSON() ([]byte, error) {
	runes := []rune(r.text)
	slices.Reverse(runes)
	return json.Marshal(string(runes))
}

func (r *reversed) UnmarshalJSON(text []byte) error {
	var s string
	err := json.Unmarshal(text, &s)
	runes := []rune(s)
	slices.Reverse(runes)
	r.text = string(runes)
	return err
}

// argCase is a pair of stored texts and what a task is given for them.
type argCase struct {
	name, args, kwargs string
	want               any    // if they fit
	err                string // else, a part of the error
	call               func(*Job) (any, error)
}

func accepts[A any](name, args, kwargs string, want A) argCase {
	return argCase{name, args, kwargs, want, "", func(job *Job) (any, error) { return given[A](job) }}
}

// equal compares arguments: a big.Int by value and JSON without its white space.
var equal = cmp.Options{
	cmp.Comparer(func(a, b big.Int) bool { return a.Cmp(&b) == 0 }),
	cmp.AllowUnexported(derived{}, crawlArgs{}, hexWord{}, reversed{}),
	// encoding/json writes an empty json.Number as 0 and an empty json.RawMessage as null.
	cmp.Comparer(func(a, b json.Number) bool { return order.Or(a, "0") == order.Or(b, "0") }),
	cmp.FilterPath(func(p cmp.Path) bool {
		a, b := p.Last().Values()
		return p.Last().Type() == reflect.TypeFor[json.RawMessage]() && a.IsValid() && b.IsValid() && a.Len()+b.Len() > 0
	}, cmp.Comparer(func(a, b json.RawMessage) bool { return compact(a) == compact(b) })),
}

func compact(text json.RawMessage) string {
	var buf bytes.Buffer
	json.Compact(&buf, text)
	return order.Or(buf.String(), "null")
}

type (
	twin    struct{ X, Y int }
	twinToo struct{ X, Z int }
	tagged  struct {
		Anything int `json:"X"`
	}
	oddTags struct {
		Odd  int `json:"it's,string"` // the versions of encoding/json make different names of this
		Even int `json:"a.b-c/d e;f,string"`
	}
	futureTags struct {
		At time.Time `json:"at,format:RFC3339"` // encoding/json/v2 knows more options
	}
)

type embedsTag struct {
	marker `json:"inner"`
	X      int
}

func (c argCase) check(t *testing.T) {
	job := &Job{ID: "id", Task: "task", Claim: 7}
	if err := job.DecodeArgs(c.args, c.kwargs); err != nil {
		t.Fatal(err)
	}
	got, err := c.call(job)
	if c.err != "" {
		if !errors.Is(err, ErrBadArgs) || !strings.Contains(err.Error(), c.err) {
			t.Fatalf("error %v, want ErrBadArgs with %q", err, c.err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.want, got, equal); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

func bigInt(digits string) *big.Int {
	n, _ := new(big.Int).SetString(digits, 10)
	return n
}

func TestArgumentsAreEncodedAsOneArrayAndOneObject(t *testing.T) {
	long := strings.Repeat("x", 1024)
	meta := map[string]string{"a": strings.Repeat("x", 4<<10-8)}
	slot := time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name         string
		job          *Job
		args, kwargs string
	}{
		{"none", NewJob("x"), `[]`, `{}`},
		{"empty", &Job{Task: "x", Args: []any{}, Kwargs: map[string]any{}}, `[]`, `{}`},
		{"of all kinds", &Job{Task: "x", Args: []any{1, "a", nil, 1.5, []int{1}, addArgs{1, 2}}, Kwargs: map[string]any{"b": 2, "a": true}},
			`[1,"a",null,1.5,[1],{"A":1,"B":2}]`, `{"a":true,"b":2}`},
		{"readable", NewJob("x", "<a href=\"b&c\">é\u2028"), `["<a href=\"b&c\">é\u2028"]`, `{}`},
		{"JSON as it is, without its spaces", NewJob("x", json.RawMessage(` { "b" : 1e999, "a" : "\ufffd" } `)), `[{"b":1e999,"a":"\ufffd"}]`, `{}`},
		{"a big number", NewJob("x", json.Number("123456789012345678901234567890")), `[123456789012345678901234567890]`, `{}`},
		{"U+FFFD, and the text of its escape", NewJob("x", "\uFFFD", `\ufffd`), "[\"\uFFFD\",\"\\\\ufffd\"]", `{}`},
		{"names and Meta as long as they may be", &Job{Task: long, ID: long, Queue: long, Key: long, Meta: meta}, `[]`, `{}`},
		{"a run of a schedule", &Job{Task: "x", Key: "periodic:nightly", RunAt: slot, ID: periodicID("nightly", slot)}, `[]`, `{}`},
		{"the most that is taken", NewJob("x", strings.Repeat("x", maxEncoded-6)), `["` + strings.Repeat("x", maxEncoded-6) + `"]`, `{}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args, kwargs, err := c.job.EncodeArgs()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{c.args, c.kwargs}, []string{args, kwargs}); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJobsThatCannotBeStoredAreRefused(t *testing.T) {
	long := strings.Repeat("x", 1025)
	slot := time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		job  *Job
		want error
		text string
	}{
		{"no job", nil, ErrBadArgs, "must name its task"},
		{"no task", &Job{}, ErrBadArgs, "must name its task"},
		{"an id that is not UTF-8", &Job{Task: "x", ID: "\xff"}, ErrBadArgs, `task "x": the ID "\xff" is not valid UTF-8`},
		{"a task that is not UTF-8", NewJob("\xff"), ErrBadArgs, "not valid UTF-8"},
		{"a queue that is not UTF-8", &Job{Task: "x", Queue: "\xff"}, ErrBadArgs, "not valid UTF-8"},
		{"a key that is not UTF-8", &Job{Task: "x", Key: "\xff"}, ErrBadArgs, "not valid UTF-8"},
		{"an id with a NUL", &Job{Task: "x", ID: "\x00"}, ErrBadArgs, `task "x": the ID "\x00" contains a NUL`},
		{"a task with a NUL", NewJob("x\x00"), ErrBadArgs, "contains a NUL"},
		{"a queue with a NUL", &Job{Task: "x", Queue: "\x00x"}, ErrBadArgs, "contains a NUL"},
		{"a key with a NUL", &Job{Task: "x", Key: "x\x00x"}, ErrBadArgs, "contains a NUL"},
		{"a very long task", NewJob(strings.Repeat(long, 1024)), ErrBadArgs, "the Task has 1049600 bytes"},
		{"a long value in Meta that is not UTF-8", &Job{Task: "x", Meta: map[string]string{"a": long + "\xff"}}, ErrBadArgs,
			"is not valid UTF-8"},
		{"a long id", &Job{Task: "x", ID: long}, ErrBadArgs, `task "x": the ID has 1025 bytes, want at most 1024: "xxx`},
		{"a long task", NewJob(long), ErrBadArgs, "the Task has 1025 bytes"},
		{"a long queue", &Job{Task: "x", Queue: long}, ErrBadArgs, "the Queue has 1025 bytes"},
		{"a long key", &Job{Task: "x", Key: long}, ErrBadArgs, "the Key has 1025 bytes"},
		{"a key of a schedule", &Job{Task: "x", Key: "periodic:nightly"}, ErrBadArgs,
			`the Key is "periodic:nightly", but keys that begin with periodic: belong to a Worker's Periodic`},
		{"a key of another slot of a schedule", &Job{Task: "x", Key: "periodic:nightly", RunAt: slot,
			ID: periodicID("nightly", slot.Add(time.Hour))}, ErrBadArgs, `the Key is "periodic:nightly"`},
		{"a key of another schedule", &Job{Task: "x", Key: "periodic:nightly", RunAt: slot,
			ID: periodicID("daily", slot)}, ErrBadArgs, `the Key is "periodic:nightly"`},
		{"Meta that is not UTF-8", &Job{Task: "x", Meta: map[string]string{"a": "\xff"}}, ErrBadArgs, `the value in Meta "\xff" is not`},
		{"a name in Meta that is not UTF-8", &Job{Task: "x", Meta: map[string]string{"\xff": ""}}, ErrBadArgs, "not valid UTF-8"},
		{"Meta with a NUL", &Job{Task: "x", Meta: map[string]string{"a": "\x00"}}, ErrBadArgs, "contains a NUL"},
		{"a name in Meta with a NUL", &Job{Task: "x", Meta: map[string]string{"\x00": ""}}, ErrBadArgs, "contains a NUL"},
		{"too much Meta", &Job{Task: "x", Meta: map[string]string{"a": strings.Repeat("x", 4<<10-7)}}, ErrTooLarge,
			`task "x": Meta of 4097 bytes as JSON, want at most 4096`},
		{"a year that has five digits", &Job{Task: "x", RunAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, ErrBadArgs,
			"RunAt is in the year 10000, want 0 to 9999"},
		{"JSON that is not UTF-8", NewJob("x", json.RawMessage("\"\xff\"")), ErrBadArgs, `task "x": not valid UTF-8`},
		{"text that is not UTF-8", NewJob("x", 1, "\xff"), ErrBadArgs, "not valid UTF-8"},
		{"text inside that is not UTF-8", NewJob("x", []any{map[string]any{"a": [1]string{"\\\xff"}}}), ErrBadArgs, "not valid UTF-8"},
		{"a name that is not UTF-8", &Job{Task: "x", Kwargs: map[string]any{"\xff": 1}}, ErrBadArgs, "not valid UTF-8"},
		{"malformed JSON", NewJob("x", json.RawMessage("{")), ErrBadArgs, "unexpected end"},
		{"a channel", NewJob("x", make(chan int)), ErrBadArgs, "unsupported type"},
		{"a function by name", &Job{Task: "x", Kwargs: map[string]any{"f": func() {}}}, ErrBadArgs, "unsupported type"},
		{"one byte too many", NewJob("x", strings.Repeat("x", maxEncoded-5)), ErrTooLarge, "arguments of 1048577 bytes, want at most 1048576"},
		{"too much in both", &Job{Task: "x", Args: []any{strings.Repeat("x", maxEncoded/2)},
			Kwargs: map[string]any{"a": strings.Repeat("x", maxEncoded/2)}}, ErrTooLarge, `task "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := c.job.EncodeArgs()
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || len(err.Error()) > 1000 {
				t.Errorf("%.2000v, want %v with %q and at most 1000 bytes", err, c.want, c.text)
			}
		})
	}
}

// Each of these has U+FFFD in its JSON, so that only the value shows whether encoding/json has put it there.
func TestOnlyTextThatWasLostIsRefused(t *testing.T) {
	const sound, broken = "\uFFFD", "\xff"
	type inner struct{ S string }
	type outer struct {
		S string
		inner
		Hidden string `json:"-"`
		hidden string
	}
	for _, c := range []struct {
		name   string
		value  func(text string) any
		always bool // the text is not in the JSON
	}{
		{"a string", func(text string) any { return text }, false},
		{"a named string", func(text string) any { return word(text) }, false},
		{"behind pointers", func(text string) any { return new(new(text)) }, false},
		{"in a slice", func(text string) any { return []any{1, nil, []word{word(text)}} }, false},
		{"in an array", func(text string) any { return [2]string{"", text} }, false},
		{"in a map", func(text string) any { return map[int]any{1: text} }, false},
		{"as a key", func(text string) any { return map[word]int{word(text): 1} }, false},
		{"in a field", func(text string) any { return outer{S: text} }, false},
		{"in an embedded field", func(text string) any { return struct{ inner }{inner{text}} }, false},
		{"in JSON", func(text string) any { return json.RawMessage(`"` + text + `"`) }, false},
		{"in the JSON of its own", func(text string) any { return ownJSON{text} }, false},
		{"in the JSON of its own by pointer", func(text string) any { return &ownJSONByPointer{text} }, false},
		{"in the text of its own", func(text string) any { return ownWords{text} }, false},
		{"in the text of a key", func(text string) any { return map[ownWords]int{{text}: 1} }, false},
		{"in a field without JSON", func(text string) any { return outer{Hidden: text, hidden: text} }, true},
		{"in bytes", func(text string) any { return []byte(text) }, true},
		{"in hexadecimal text of its own", func(text string) any { return hexWord{text} }, true},
	} {
		for _, text := range []string{sound, broken} {
			_, _, err := NewJob("x", sound, c.value(text)).EncodeArgs()
			if refused := text == broken && !c.always; refused != errors.Is(err, ErrBadArgs) {
				t.Errorf("%q %s: %v; want ErrBadArgs: %v", text, c.name, err, refused)
			}
		}
	}
}

type level int

func (l level) MarshalText() ([]byte, error) { return []byte("level"), nil }

type (
	ownJSON          struct{ text string }
	ownJSONByPointer struct{ text string }
	ownWords         struct{ text string }
)

func (o ownJSON) MarshalJSON() ([]byte, error) { return []byte(`"` + o.text + `"`), nil }

func (o *ownJSONByPointer) MarshalJSON() ([]byte, error) { return []byte(`"` + o.text + `"`), nil }

func (o ownWords) MarshalText() ([]byte, error) { return []byte(o.text), nil }

func TestEnqueueReportsWhatJSONCannotExpress(t *testing.T) {
	for name, job := range map[string]*Job{
		"a number that is none":  Task[float64]{Name: "task"}.Job(math.NaN()),
		"inside a struct":        Task[struct{ F float64 }]{Name: "task"}.Job(struct{ F float64 }{math.Inf(1)}),
		"inside any":             Task[any]{Name: "task"}.Job(make(chan int)),
		"text that is not UTF-8": Task[struct{ Path string }]{Name: "task"}.Job(struct{ Path string }{"/tmp/\xff"}),
	} {
		if _, err := through(job); !errors.Is(err, ErrBadArgs) || !strings.Contains(fmt.Sprint(err), `task "task"`) {
			t.Errorf("%s: %v, want ErrBadArgs with the task's name", name, err)
		}
	}
}

func TestStoredArgumentsAreReadBackUndecoded(t *testing.T) {
	raw := func(s string) any { return json.RawMessage(s) }
	for _, c := range []struct {
		args, kwargs string
		want         *Job
	}{
		{`[]`, `{}`, &Job{}},
		{` [ ] `, ` { } `, &Job{}},
		{`[1, "a,]" ,{"b":[ ]}]`, `{}`, &Job{Args: []any{raw(`1`), raw(`"a,]"`), raw(`{"b":[ ]}`)}}},
		{`[null]`, `{"a\n":null,"b":1e999}`, &Job{Args: []any{raw(`null`)}, Kwargs: map[string]any{"a\n": raw(`null`), "b": raw(`1e999`)}}},
	} {
		got := &Job{Args: []any{"old"}, Kwargs: map[string]any{"old": true}}
		if err := got.DecodeArgs(c.args, c.kwargs); err != nil {
			t.Errorf("%s %s: %v", c.args, c.kwargs, err)
		} else if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.args, c.kwargs, diff)
		}
	}
}

func TestStoredTextThatHoldsNoArgumentsIsRefused(t *testing.T) {
	for _, c := range [][2]string{
		{``, `{}`}, {`[`, `{}`}, {`{}`, `{}`}, {`null`, `{}`}, {`1`, `{}`}, {`[1] 2`, `{}`}, {`[1,]`, `{}`},
		{`[]`, ``}, {`[]`, `{`}, {`[]`, `[]`}, {`[]`, `null`}, {`[]`, `{"a"}`}, {`[]`, `{"a":1}}`},
		{"[\"\xff\"]", `{}`}, {`[]`, "{\"\xff\":1}"}, // which encoding/json would mend in silence
	} {
		if err := new(Job).DecodeArgs(c[0], c[1]); !errors.Is(err, ErrBadArgs) {
			t.Errorf("args %s and kwargs %s: %v, want ErrBadArgs", c[0], c[1], err)
		}
	}
}

func TestArgumentsFillAStructInOrderAndByName(t *testing.T) {
	word := "x"
	for _, c := range []argCase{
		accepts("nothing", `[]`, `{}`, addArgs{}),
		accepts("positional", `[1,2]`, `{}`, addArgs{1, 2}),
		accepts("fewer than fields", `[1]`, `{}`, addArgs{A: 1}),
		accepts("by name", `[]`, `{"B":2,"A":1}`, addArgs{1, 2}),
		accepts("mixed", `[1]`, `{"B":2}`, addArgs{1, 2}),
		accepts("names without regard to case", `[]`, `{"a":1,"b":2}`, addArgs{1, 2}),
		accepts("null leaves a field zero", `[null,2]`, `{}`, addArgs{B: 2}),
		accepts("spaces", " [ 1 , 2 ] ", " { } ", addArgs{1, 2}),
		refuses[addArgs]("too many", `[1,2,3]`, `{}`, `task "task": it takes A, B; got 3 by position and 0 by name`),
		accepts("an unknown name", `[1]`, `{"C":3,"B":2}`, addArgs{1, 2}),
		refuses[addArgs]("given twice", `[1]`, `{"A":1}`, `task "task": argument "A" is given twice`),
		refuses[addArgs]("given twice by name", `[]`, `{"A":1,"a":1}`, `task "task": argument "A" is given twice`),
		refuses[addArgs]("wrong type", `["1"]`, `{}`, `task "task": argument "A": expected int, got string`),
		refuses[addArgs]("wrong type by name", `[]`, `{"b":[2]}`, `task "task": argument "B": expected int, got array`),
		refuses[addArgs]("fraction", `[1.5]`, `{}`, `task "task": argument "A": expected int, got number 1.5`),
		refuses[addArgs]("out of range", `[1e30]`, `{}`, `task "task": argument "A": expected int, got number 1e30`),

		accepts("tags", `["u",1,5]`, `{"id":"18446744073709551615"}`,
			crawlArgs{URL: "u", Depth: 1, Every: 5, ID: math.MaxUint64}),
		accepts("a string where the tag says so, by position", `["u",1,5,"7"]`, `{}`,
			crawlArgs{URL: "u", Depth: 1, Every: 5, ID: 7}),
		refuses[crawlArgs]("a number where the tag says string", `["u",1,5,7]`, `{}`, `argument "id": expected uint64`),
		accepts("the Go name of a tagged field is not its name", `[]`, `{"N":1}`, struct {
			N int `json:"count"`
		}{}),
		accepts(`a field tagged "-" is not an argument`, `[]`, `{"Skipped":"s"}`, crawlArgs{}),
		accepts("an unexported field is not an argument", `[]`, `{"hidden":"s"}`, crawlArgs{}),
		refuses[crawlArgs]("text in a number that is a string", `[]`, `{"id":"x"}`, `argument "id": expected uint64`),
		refuses[crawlArgs]("half a string in a number that is a string", `[]`, `{"id":"\"1"}`,
			`argument "id": expected uint64`),

		accepts("embedded structs in place, shadowed names gone", `["t","n",["a"]]`, `{}`,
			derived{marker: marker{}, base: base{Tenant: "t"}, Name: "n", Tags: []string{"a"}}),
		accepts("promoted by name", `[]`, `{"tenant":"t","name":"n"}`, derived{base: base{Tenant: "t"}, Name: "n"}),

		accepts("interfaces keep numbers", `["2026-01-02T03:04:05+01:00",123456789012345678901234567890]`,
			`{"Any":12345678901234567890,"Anys":{"x":[0.1]},"Value":3}`, nested{
				At:    time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
				Huge:  bigInt("123456789012345678901234567890"),
				Value: *big.NewInt(3),
				Any:   json.Number("12345678901234567890"),
				Anys:  map[string]any{"x": []any{json.Number("0.1")}},
			}),
		refuses[nested]("a value that its type refuses", `["yesterday"]`, `{}`,
			`argument "At": expected time.Time: parsing time`),
		refuses[everything]("a type inside a field", `[]`, `{"Nested":{"X":"1"}}`,
			`argument "Nested": expected int in X, got string`),
		accepts("quoted pointers and strings", `[]`, `{"QuotedP":"true","QuotedS":"\"x\""}`,
			everything{QuotedP: new(true), QuotedS: "x"}),

		accepts("one int", `[9007199254740993]`, `{}`, int64(9007199254740993)),
		accepts("one string", `["x"]`, `{}`, "x"),
		accepts("one named float", `[36.6]`, `{}`, celsius(36.6)),
		accepts("one pointer", `["x"]`, `{}`, &word),
		accepts("one null pointer", `[null]`, `{}`, (*string)(nil)),
		accepts("one pointer to a struct", `[{"A":1}]`, `{}`, &addArgs{A: 1}),
		accepts("one slice", `[[1,2]]`, `{}`, []int{1, 2}),
		accepts("one array", `[[1,2]]`, `{}`, [2]int{1, 2}),
		accepts("one map", `[{"a":1}]`, `{}`, map[string]int{"a": 1}),
		accepts[any]("one of any type", `[{"a":12345678901234567890}]`, `{}`,
			map[string]any{"a": json.Number("12345678901234567890")}),
		accepts("one time", `["2026-01-02T03:04:05Z"]`, `{}`, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
		accepts("one duration", `[1000]`, `{}`, time.Microsecond),
		accepts("one piece of JSON", `[{"b":2,"a":1}]`, `{}`, json.RawMessage(`{"b":2,"a":1}`)),
		refuses[int]("none for one", `[]`, `{}`,
			`task "task": it takes exactly one positional argument, int; got 0 by position and 0 by name`),
		refuses[int]("two for one", `[1,2]`, `{}`, `got 2 by position and 0 by name`),
		accepts("a name for one is unknown", `[1]`, `{"1":2}`, 1),
		refuses[map[string]int]("names for a map", `[]`, `{"a":1}`,
			`it takes exactly one positional argument, map[string]int`),
		refuses[time.Time]("no time", `["x"]`, `{}`, `argument "1": expected time.Time: parsing time`),

		accepts("none", `[]`, `{}`, struct{}{}),
		refuses[struct{}]("one for none", `[1]`, `{}`, `task "task": it takes no arguments; got 1 by position`),
		accepts("a name for none", `[]`, `{"a":1}`, marker{}),

		accepts("the job itself", `[1,"x"]`, `{"a":[]}`, &Job{
			ID: "id", Task: "task", Claim: 7, Args: []any{json.RawMessage("1"), json.RawMessage(`"x"`)},
			Kwargs: map[string]any{"a": json.RawMessage("[]")},
		}),
	} {
		t.Run(c.name, c.check)
	}
}

func TestAJobMadeByHandRunsAsAStoredOne(t *testing.T) {
	job := NewJob("task", 1)
	job.Kwargs = map[string]any{"b": uint8(2)}
	got, err := given[addArgs](job)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(addArgs{1, 2}, got); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if _, err := given[addArgs](NewJob("task", make(chan int))); !errors.Is(err, ErrBadArgs) {
		t.Errorf("a channel as argument: %v, want ErrBadArgs", err)
	}
	if _, err := given[addArgs](NewJob("task", json.RawMessage("1 2"))); !errors.Is(err, ErrBadArgs) {
		t.Errorf("malformed JSON as argument: %v, want ErrBadArgs", err)
	}
	if _, err := given[any](NewJob("task", json.RawMessage("1 2"))); !errors.Is(err, ErrBadArgs) {
		t.Errorf("malformed JSON as argument of any type: %v, want ErrBadArgs", err)
	}
}

func TestADeployMayAddFieldsAndRemoveThem(t *testing.T) {
	type before struct {
		Path  string
		Width int
	}
	type after struct {
		Path    string
		Quality *int
	}
	fromBefore, err := through(Task[before]{Name: "task"}.Job(before{"cat.jpg", 800}))
	if err != nil {
		t.Fatal(err)
	}
	fromAfter, err := through(Task[after]{Name: "task"}.Job(after{"dog.jpg", new(80)}))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := given[after](fromBefore); err != nil || got != (after{Path: "cat.jpg"}) {
		t.Errorf("a job from before the deploy: %+v, %v", got, err)
	}
	if got, err := given[before](fromAfter); err != nil || got != (before{Path: "dog.jpg"}) {
		t.Errorf("a job from after the deploy on an old worker: %+v, %v", got, err)
	}
}

// roundTrip checks that a task is given a value equal to the one it was enqueued with.
func roundTrip[A any](t *testing.T, values ...A) {
	t.Helper()
	for _, want := range values {
		job, err := through(Task[A]{Name: "task"}.Job(want))
		if err != nil {
			t.Errorf("%T %+v: %v", want, want, err)
			continue
		}
		got, err := given[A](job)
		if err != nil {
			t.Errorf("%T %+v: %v", want, want, err)
		} else if diff := cmp.Diff(want, got, equal, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%T (-enqueued +given):\n%s", want, diff)
		}
	}
}

// randomly does so for random values.
func randomly[A any](t *testing.T, seed int64) {
	t.Helper()
	random := rand.New(rand.NewSource(seed))
	for range 50 {
		value, ok := quick.Value(reflect.TypeFor[A](), random)
		if !ok {
			t.Fatalf("no random %v", reflect.TypeFor[A]())
		}
		roundTrip(t, value.Interface().(A))
	}
}

func TestTaskJobRoundTripsEveryShape(t *testing.T) {
	now := time.Now()
	roundTrip(t, addArgs{}, addArgs{math.MinInt, math.MaxInt})
	roundTrip(t, crawlArgs{URL: "https://example.com/?a=1&b=<2>", Depth: 3, Every: time.Hour, ID: math.MaxUint64})
	roundTrip(t, derived{base: base{Tenant: "t"}, Name: "n", Tags: []string{"a", "b"}})
	roundTrip(t, nested{At: now, Huge: bigInt("123456789012345678901234567890"), Value: *bigInt("-9223372036854775809"),
		Any: json.Number("1e400"), Anys: map[string]any{"x": nil, "y": "z", "n": json.Number("9007199254740993")}})
	roundTrip(t, tree{1, []tree{{2, nil}, {3, []tree{{4, nil}}}}})
	roundTrip(t, 0, -1, math.MaxInt)
	roundTrip(t, "", "x", "\u0000\u2028<&>\U0001F600\uFFFD\\ufffd")
	roundTrip(t, new("x"), nil)
	roundTrip(t, []string(nil), []string{}, []string{"a"})
	roundTrip(t, map[int]string{1: "a"})
	roundTrip[any](t, nil, "x", true, json.Number("0.1"), []any{"a"}, map[string]any{"a": nil})
	roundTrip(t, now, time.Time{})
	roundTrip(t, *bigInt("123456789012345678901234567890"))
	roundTrip(t, json.RawMessage(`{"a":1}`))
	roundTrip(t, struct{}{})
	roundTrip(t, marker{})
	roundTrip(t, oddTags{1, 2})
	roundTrip(t, futureTags{now.Truncate(time.Second)}) // which is all that the format keeps

	seed := now.UnixNano()
	t.Logf("seed %d", seed)
	randomly[addArgs](t, seed)
	randomly[everything](t, seed)
	randomly[string](t, seed)
	randomly[uint64](t, seed)
	randomly[float64](t, seed)
	randomly[*everything](t, seed)
	randomly[[]everything](t, seed)
	randomly[map[string]addArgs](t, seed)
	randomly[[]byte](t, seed)
}

// The names must be those that encoding/json knows, in the order of declaration.
func TestFieldNamesAreThoseOfEncodingJSON(t *testing.T) {
	type deep struct{ twinToo }
	type Word string
	for _, c := range []struct {
		value any
		want  []string
	}{
		{struct{ twin }{}, []string{"X", "Y"}},
		{struct {
			deep
			twin
		}{}, []string{"Z", "X", "Y"}},
		{struct {
			twin
			X string
		}{}, []string{"Y", "X"}},
		{struct {
			twin
			twinToo
			X string
		}{}, []string{"Y", "Z", "X"}},
		{struct {
			twin
			Anything int `json:"X"`
		}{}, []string{"Y", "X"}},
		{struct {
			marker
			Word
			N int `json:",omitempty"`
			U int `json:"ü"`
		}{N: 1}, []string{"Word", "N", "ü"}},
		{struct { // promoted methods of two embedded types cancel each other out
			time.Time
			big.Int
			N int
		}{}, []string{"N"}},
		{reflect.Zero(reflect.StructOf([]reflect.StructField{
			{Name: "Dash", Type: reflect.TypeFor[int](), Tag: `json:"-,"`},
			{Name: "Gone", Type: reflect.TypeFor[int](), Tag: `json:"-"`},
			{Name: "Even", Type: reflect.TypeFor[int](), Tag: `json:"a.b-c/d e;f"`},
		})).Interface(), []string{"-", "a.b-c/d e;f"}},
	} {
		p := paramsOf("task", reflect.TypeOf(c.value))
		var got []string
		for _, f := range p.fields {
			got = append(got, f.name)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%T (-want +got):\n%s", c.value, diff)
		}
		var known map[string]any
		if text, err := json.Marshal(c.value); err != nil || json.Unmarshal(text, &known) != nil {
			t.Fatal(err)
		}
		for _, name := range got {
			delete(known, name)
		}
		if len(known) > 0 || len(got) != len(c.want) {
			t.Errorf("%T: encoding/json knows also %v", c.value, known)
		}
	}
}

func TestTypesThatCannotBeArgumentsPanicAtRegistration(t *testing.T) {
	for _, c := range []struct {
		task AnyTask
		want string
	}{
		{nop[chan int]("x"), `task "x": A: JSON cannot express chan int`},
		{nop[func()]("x"), `JSON cannot express func()`},
		{nop[complex128]("x"), `JSON cannot express complex128`},
		{nop[[]chan int]("x"), `JSON cannot express chan int`},
		{nop[struct {
			A int
			F func() `json:",omitempty"`
		}]("x"), `A.F: JSON cannot express func()`},
		{nop[struct {
			In struct{ C map[string]*chan int }
		}]("x"), `A.In.C: JSON cannot express chan int`},
		{nop[map[[1]int]string]("x"), `JSON cannot write and read [1]int as the keys of a map`},
		{nop[map[float64]string]("x"), `JSON cannot write and read float64 as the keys of a map`},
		{nop[map[level]string]("x"), `JSON cannot write and read pinion.level as the keys of a map`},
		{nop[map[string]struct{ By map[any]int }]("x"), `A.By: JSON cannot write and read interface {} as the keys`},
		{nop[error]("x"), `A: JSON cannot fill error, an interface with methods`},
		{nop[io.Reader]("x"), `A: JSON cannot fill io.Reader, an interface with methods`},
		{nop[struct{ Ctx context.Context }]("x"), `A.Ctx: JSON cannot fill context.Context`},
		{nop[struct {
			Results []struct{ Err error }
		}]("x"), `A.Results.Err: JSON cannot fill error`},
		{nop[*sql.DB]("x"), `A: JSON cannot fill sql.DB, which has no exported field`},
		{nop[struct{ DB *sql.DB }]("x"), `A.DB: JSON cannot fill sql.DB`},
		{nop[struct{ Count []atomic.Int64 }]("x"), `A.Count: JSON cannot fill atomic.Int64`},
		{nop[ownJSON]("x"), `A: JSON can write pinion.ownJSON but not read it`},
		{nop[*ownJSONByPointer]("x"), `A: JSON can write pinion.ownJSONByPointer but not read it`},
		{nop[struct{ Level level }]("x"), `A.Level: JSON can write pinion.level but not read it`},
		{nop[struct{ ownWords }]("x"), `JSON can write struct { pinion.ownWords } but not read it`},
		{nop[unsafe.Pointer]("x"), `JSON cannot express unsafe.Pointer`},
		{nop[struct{ x int }]("x"), `no exported field`},
		{nop[struct{ marker }]("x"), `no exported field`},
		{nop[struct{ *tree }]("x"), `A embeds *pinion.tree, which JSON cannot fill`},
		{nop[struct{ word }]("x"), `A embeds pinion.word, which JSON cannot fill`},
		{nop[embedsTag]("x"), `A embeds pinion.marker, which JSON cannot fill`},
		{nop[struct {
			twin
			twinToo
		}]("x"), `task "x": two fields of A are named "X" in JSON`},
		{nop[struct {
			twin
			tagged
		}]("x"), `two fields of A are named "X" in JSON`},
	} {
		if got := panicOfAdd(new(Registry), c.task); !strings.Contains(got, c.want) {
			t.Errorf("panic %q, want one with %q", got, c.want)
		}
	}
}

func TestTypesThatJSONCanExpressAreRegistered(t *testing.T) {
	type Inner struct{ X int }
	var registry Registry
	registry.Add(nop[tree]("recursive"), nop[*tree]("pointer"), nop[map[time.Time]int]("keys that are text"),
		nop[struct{ URL url.URL }]("an unexported field inside"), nop[map[int8]netip.Addr]("text of its own"),
		nop[map[netip.Addr]word]("keys that read themselves"), nop[struct{ In struct{ marker } }]("empty inside"),
		nop[struct {
			A int
			C chan int `json:"-"`
			E error    `json:"-"`
		}]("skipped"), nop[struct {
			*Inner `json:"named"`
			A      int
		}]("pointer embedded by name"))
}

func FuzzArgs(f *testing.F) {
	for _, seed := range [][2]string{
		{`[]`, `{}`}, {`[1,2]`, `{}`}, {`[1]`, `{"b":2}`}, {`["u",1,5]`, `{"id":"7","-":"x"}`}, {`[null]`, `{"":null}`},
		{`[{"Any":1e400}]`, `{"x":[1,{"y":"\ud800"}]}`}, {`["2026-01-02T03:04:05Z"]`, `{"tenant":"t"}`}, {`[`, `{`},
		{`null`, `null`}, {`[]`, `{"Huge":1,"Value":null,"At":"2026-01-02T03:04:05+23:59"}`},
		{"[\"\xff\"]", `{"QuotedS":"\"\""}`}, {`[[1],{"a":2},3,4]`, `{"is":5}`},
		{`["6869",{"6a":"ba"},[1],7,["8"]]`, `{"base":{"tenant":"t"},"Box":{"To":{"Of":["x"]}}}`},
		{`[{"6a":{"A":1}}]`, `{}`}, {`[{"-128":[true]}]`, `{}`}, {`[[1,null,2.5]]`, `{}`}, {`["YWI="]`, `{}`}, {`[12345678901234567890]`, `{}`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, args, kwargs string) {
		job := NewJob("task")
		if err := job.DecodeArgs(args, kwargs); err != nil {
			if !errors.Is(err, ErrBadArgs) {
				t.Fatalf("DecodeArgs: %v, want ErrBadArgs", err)
			}
			return
		}
		fuzzShape[addArgs](t, job)
		fuzzShape[crawlArgs](t, job)
		fuzzShape[derived](t, job)
		fuzzShape[everything](t, job)
		fuzzShape[nested](t, job)
		fuzzShape[tree](t, job)
		fuzzShape[int](t, job)
		fuzzShape[string](t, job)
		fuzzShape[any](t, job)
		fuzzShape[time.Time](t, job)
		fuzzShape[struct{}](t, job)
		fuzzShape[box[int]](t, job)
		fuzzShape[box[any]](t, job)
		fuzzShape[*box[json.Number]](t, job)
		fuzzShape[pointed](t, job)
		fuzzShape[*pointed](t, job)
		fuzzShape[[]pointed](t, job)
		fuzzShape[map[hexWord]*addArgs](t, job)
		fuzzShape[map[int8][]bool](t, job)
		fuzzShape[hexWord](t, job)
		fuzzShape[reversed](t, job)
		fuzzShape[stamped](t, job)
		fuzzShape[json.Number](t, job)
		fuzzShape[json.RawMessage](t, job)
		fuzzShape[[3]*float32](t, job)
		fuzzShape[**crawlArgs](t, job)
		fuzzShape[[]byte](t, job)
		fuzzShape[big.Int](t, job)
		if whole, err := given[*Job](job); err != nil || len(whole.Args) != len(job.Args) ||
			len(whole.Kwargs) != len(job.Kwargs) {
			t.Fatalf("a task of *Job was given %v, %v", whole, err)
		}
	})
}

// DecodeArgs splits text by hand. It must agree with encoding/json, but for text that is not UTF-8.
func FuzzDecodeArgs(f *testing.F) {
	for _, seed := range [][2]string{
		{`[]`, `{}`}, {``, ``}, {`null`, `null`},
		{" [1 , 2 ]\n", "\t{ \"a\" : {\"b\":[1,{\"c\":\",\"}]} , \"d\":\":\" }"}, {`[[1],{"a":[2]}]`, `{"a":1,"a":2}`},
		{`["a\\",null,"\"]"]`, `{"\u0041":null," b\"":"\"}"}`}, {"[\"\xff\"]", "{\"\xff\":1}"}, {`[ ]`, `{ }`}, {`[1,]`, `{"a":1,}`}, {`["é"]`, `{"\ud800":1,"é":2,"":3}`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, args, kwargs string) {
		got := Job{}
		err := got.DecodeArgs(args, kwargs)
		var list []json.RawMessage
		var object map[string]json.RawMessage
		bad := json.Unmarshal([]byte(args), &list) != nil || list == nil || json.Unmarshal([]byte(kwargs), &object) != nil || object == nil
		bad = bad || !utf8.ValidString(args+kwargs)
		if bad != errors.Is(err, ErrBadArgs) {
			t.Fatalf("DecodeArgs(%q, %q): %v; want ErrBadArgs: %v", args, kwargs, err, bad)
		}
		if bad {
			return
		}
		want := Job{}
		for _, raw := range list {
			want.Args = append(want.Args, raw)
			var text, viaJSON string
			if _, err := decodeOne(raw, &text), json.Unmarshal(raw, &viaJSON); err == nil && text != viaJSON {
				t.Errorf("%s is decoded to %q, want %q", raw, text, viaJSON)
			}
		}
		for name, raw := range object {
			if want.Kwargs == nil {
				want.Kwargs = make(map[string]any)
			}
			want.Kwargs[name] = raw
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("DecodeArgs(%q, %q) (-encoding/json +got):\n%s", args, kwargs, diff)
		}
	})
}

// decodeOne gives the raw argument to a task that takes a string.
func decodeOne(raw json.RawMessage, text *string) error {
	h := Task[string]{Name: "task", Run: func(_ context.Context, s string) error { *text = s; return nil }}.handler()
	return h.run(context.Background(), NewJob("task", raw))
}

// fuzzShape checks that arguments either do not fit A, which is ErrBadArgs, or survive being enqueued again.
func fuzzShape[A any](t *testing.T, job *Job) {
	first, err := given[A](job)
	if err != nil {
		if !errors.Is(err, ErrBadArgs) {
			t.Fatalf("%T: %v, want ErrBadArgs", first, err)
		}
		return
	}
	again, err := through(Task[A]{Name: "task"}.Job(first))
	if err != nil {
		t.Fatalf("%#v was given but cannot be enqueued: %v", first, err)
	}
	got, err := given[A](again)
	if err != nil {
		t.Fatalf("%#v was given; enqueued: %v", first, err)
	}
	if diff := cmp.Diff(first, got, equal, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%T (-given +enqueued and given again):\n%s", first, diff)
	}
}

func BenchmarkDecode(b *testing.B) {
	type fetch struct {
		Path  string
		Count int
		Deep  bool
	}
	text := `"` + strings.Repeat("x", 98) + `"`
	benchmarkDecode[string](b, "string", "["+text+"]", "{}", text)
	benchmarkDecode[fetch](b, "struct", "[]", `{"Path":"/usr/share/doc","Count":12345,"Deep":true}`,
		`{"Path":"/usr/share/doc","Count":12345,"Deep":true}`)
	benchmarkDecode[fetch](b, "positional", `["/usr/share/doc",12345,true]`, "{}",
		`{"Path":"/usr/share/doc","Count":12345,"Deep":true}`)
}

func benchmarkDecode[A any](b *testing.B, name, args, kwargs, plain string) {
	var registry Registry
	registry.Add(nop[A]("task"))
	h, _ := registry.lookup("task")
	job := NewJob("task")
	run := func(what string, f func() error) {
		b.Run(name+"/"+what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("json.Unmarshal", func() error { var a A; return json.Unmarshal([]byte(plain), &a) })
	run("DecodeArgs", func() error { return job.DecodeArgs(args, kwargs) })
	run("run", func() error { return h.run(b.Context(), job) })
	run("EncodeArgs", func() error { _, _, err := job.EncodeArgs(); return err })
}
