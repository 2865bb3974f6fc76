package pinion

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// params are the arguments that a task takes: the fields of a struct, or the one element that is its A.
type params struct {
	task   string
	one    bool
	fields []field
	takes  string // all that in words
	exact  bool   // there may be an interface, in which numbers must not become float64
}

// field is one argument.
type field struct {
	name   string // its JSON name
	index  []int  // where it is, in embedded structs perhaps
	quoted bool   // it has the json tag's ",string" option
}

// isFields reports whether arguments fill t field by field.
func isFields(t reflect.Type) bool { return t.Kind() == reflect.Struct && !decodesItself(t) }

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// refuse panics for a mistake in the program.
func (p *params) refuse(format string, args ...any) {
	panic(fmt.Sprintf("pinion: task %q: %s", p.task, fmt.Sprintf(format, args...)))
}

// learn finds out what arguments fill a t.
//
// Their names are those of encoding/json, which does the filling. Of several fields with one name the least deeply
// embedded counts; two at that depth, which encoding/json passes over or chooses from by their tags, are refused.
func (p *params) learn(t reflect.Type) {
	if p.one = !isFields(t); p.one {
		p.check("A", t, make(map[reflect.Type]bool))
		p.fields, p.takes = []field{{name: "1"}}, fmt.Sprintf("exactly one positional argument, %v", t)
		return
	}
	all := p.list(t, nil)
	var names []string
	for _, f := range all {
		if slices.ContainsFunc(all, func(g field) bool { return g.name == f.name && len(g.index) < len(f.index) }) {
			continue
		}
		if slices.Contains(names, f.name) {
			p.refuse("two fields of A are named %q in JSON", f.name)
		}
		names, p.fields = append(names, f.name), append(p.fields, f)
	}
	if len(names) == 0 && t.NumField() > 0 {
		p.refuse("A, a %v, has no exported field", t)
	}
	p.takes = cmp.Or(strings.Join(names, ", "), "no arguments")
}

// check refuses what JSON can never express. What it does not look for, such as an interface with methods, is
// ErrBadArgs when there is something to decode.
func (p *params) check(path string, t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] || decodesItself(t) {
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128:
		p.refuse("%s: JSON cannot express %v", path, t)
	case reflect.Interface:
		p.exact = true
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		p.check(path, t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if f.Tag.Get("json") != "-" && (f.IsExported() || f.Anonymous) {
				p.check(path+"."+f.Name, f.Type, seen)
			}
		}
	}
}

// What encoding/json takes from a tag as a field's name.
var tagPattern = regexp.MustCompile(`^[\pL\p{Nd}!#$%&()*+\-./:;<=>?@[\]^_{|}~ ]+$`)

// list returns a struct's fields in the order of declaration, those of embedded structs in place.
func (p *params) list(t reflect.Type, index []int) (fields []field) {
	for i := range t.NumField() {
		f, at := t.Field(i), append(slices.Clone(index), i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		name = tagPattern.FindString(name)
		switch {
		case tag == "-" || !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			fields = append(fields, p.list(f.Type, at)...)
		case f.Anonymous && (!f.IsExported() || name == "" && f.Type.Kind() == reflect.Pointer):
			p.refuse("A embeds %v, which JSON cannot fill; embed a struct without a tag, or name the field", f.Type)
		default:
			quoted := slices.Contains(strings.Split(options, ","), "string")
			fields = append(fields, field{cmp.Or(name, f.Name), at, quoted})
			p.check("A."+f.Name, f.Type, make(map[reflect.Type]bool))
		}
	}
	return fields
}

func (p *params) bad(format string, args ...any) error {
	return fmt.Errorf("%w: task %q: %s", ErrBadArgs, p.task, fmt.Sprintf(format, args...))
}

// decode fills dst, a pointer to an A, from a job's arguments.
func (p *params) decode(job *Job, dst any) error {
	if len(job.Args) > len(p.fields) || p.one && (len(job.Args) != 1 || len(job.Kwargs) > 0) {
		return p.bad("it takes %s; got %d by position and %d by name", p.takes, len(job.Args), len(job.Kwargs))
	}
	given := make([]any, len(p.fields))
	copy(given, job.Args)
	for name, arg := range job.Kwargs {
		// Exactly if possible, else without regard to case, as encoding/json matches keys.
		i := slices.IndexFunc(p.fields, func(f field) bool { return f.name == name })
		if i < 0 {
			i = slices.IndexFunc(p.fields, func(f field) bool { return strings.EqualFold(f.name, name) })
		}
		if i < 0 {
			return p.bad("unknown argument %q; it takes %s", name, p.takes)
		}
		if i < len(job.Args) || given[i] != nil {
			return p.bad("argument %q is given twice", p.fields[i].name)
		}
		given[i] = arg
	}
	for i, arg := range given {
		if arg == nil { // not given: the field stays zero
			continue
		}
		var err error
		f, value := p.fields[i], reflect.ValueOf(dst).Elem()
		for _, i := range f.index {
			value = value.Field(i)
		}
		into := value.Addr().Interface()
		raw, ok := arg.(json.RawMessage) // from a storage; a Job made by hand may hold anything
		if !ok {
			raw, err = encode(arg)
		}
		if f.quoted { // encoding/json heeds the option only for a field of a struct
			into, raw = dst, slices.Concat([]byte(`{"`+f.name+`":`), raw, []byte("}"))
		}
		target, isString := into.(*string)
		if isString {
			*target, isString = unescaped(raw)
		}
		switch {
		case err != nil, isString:
		case p.exact:
			dec := json.NewDecoder(bytes.NewReader(raw))
			dec.UseNumber()
			err = dec.Decode(into)
		default:
			err = json.Unmarshal(raw, into)
		}
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return p.bad("argument %q: expected %v%s, got %s", f.name, wrong.Type, where(wrong.Field), wrong.Value)
		} else if err != nil {
			return p.bad("argument %q: expected %v: %v", f.name, value.Type(), err)
		}
	}
	return nil
}

// where names the place inside an argument that a value does not fit.
func where(field string) string {
	if field == "" {
		return ""
	}
	return " in " + field
}

// EncodeArgs checks a job that is about to be stored (ErrBadArgs) and encodes its arguments: a JSON array and a JSON
// object, at most 1 MiB together (ErrTooLarge). It is for authors of storages, to be called by Enqueue.
func (j *Job) EncodeArgs() (args, kwargs string, err error) {
	if j == nil || j.Task == "" {
		return "", "", fmt.Errorf("%w: a job must name its task", ErrBadArgs)
	}
	args, kwargs = "[]", "{}"
	if len(j.Args) > 0 {
		args, err = encodeText(j.Args)
	}
	if len(j.Kwargs) > 0 && err == nil {
		kwargs, err = encodeText(j.Kwargs)
	}
	for _, s := range [...]string{j.ID, j.Task, j.Queue, j.Key} {
		if !utf8.ValidString(s) {
			err = fmt.Errorf("%q is not valid UTF-8", s)
		}
	}
	if year := j.RunAt.UTC().Year(); year < 0 || year > 9999 {
		err = fmt.Errorf("RunAt is in the year %d", year)
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: task %q: %w", ErrBadArgs, j.Task, err)
	}
	if n := len(args) + len(kwargs); n > maxEncoded {
		return "", "", fmt.Errorf("%w: task %q: arguments of %d bytes, at most %d are taken; "+
			"store the data elsewhere and enqueue where it is", ErrTooLarge, j.Task, n, maxEncoded)
	}
	return args, kwargs, nil
}

func encodeText(v any) (string, error) {
	text, err := encode(v)
	return string(text), err
}

// DecodeArgs sets Args and Kwargs from what EncodeArgs made of them. It is for authors of storages. Text that is
// not a JSON array and a JSON object in valid UTF-8 is ErrBadArgs.
func (j *Job) DecodeArgs(args, kwargs string) error {
	if args != "[]" && !isJSON(args, "[") { // most jobs have one kind of arguments only
		return fmt.Errorf("%w: stored args are no JSON array: %.100q", ErrBadArgs, args)
	}
	if kwargs != "{}" && !isJSON(kwargs, "{") {
		return fmt.Errorf("%w: stored kwargs are no JSON object: %.100q", ErrBadArgs, kwargs)
	}
	j.splitArgs(args, kwargs)
	return nil
}

// isJSON reports whether text is JSON that begins so, in valid UTF-8: encoding/json would read other bytes as U+FFFD.
func isJSON(text, begin string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), begin) && json.Valid([]byte(text)) && utf8.ValidString(text)
}

// splitArgs is DecodeArgs for text that is known to be in order.
func (j *Job) splitArgs(args, kwargs string) {
	j.Args, j.Kwargs = nil, nil
	for _, value := range elements(args) {
		j.Args = append(j.Args, value)
	}
	for key, value := range elements(kwargs) {
		if j.Kwargs == nil {
			j.Kwargs = make(map[string]any)
		}
		name, ok := unescaped(key)
		if !ok {
			json.Unmarshal(key, &name)
		}
		j.Kwargs[name] = value // as with encoding/json, of several with one name the last counts
	}
}

// elements ranges over the elements of a JSON array, with empty keys, or of an object. They share one copy of the
// text: json.Unmarshal into a slice or a map would make one of each, and several times as many allocations.
func elements(text string) iter.Seq2[json.RawMessage, json.RawMessage] {
	return func(yield func(key, value json.RawMessage) bool) {
		if len(text) == 2 {
			return
		}
		var key json.RawMessage
		b, depth, start := []byte(text), 0, 0
		cut := func(end int) json.RawMessage {
			part := bytes.Trim(b[start:end:end], " \t\r\n")
			start = end + 1
			return part
		}
		for i := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				for i++; b[i] != '"'; i++ {
					if b[i] == '\\' {
						i++
					}
				}
			case '[', '{':
				if depth++; depth == 1 {
					start = i + 1
				}
			case ':':
				if depth == 1 {
					key = cut(i)
				}
			case ',', ']', '}':
				if depth == 1 {
					if value := cut(i); len(value) > 0 && !yield(key, value) {
						return
					}
				}
				if b[i] != ',' {
					depth--
				}
			}
		}
	}
}

// unescaped is the text of a JSON string in which every character stands for itself, as most do.
func unescaped(raw json.RawMessage) (text string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	for _, c := range raw[1 : len(raw)-1] {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return "", false
		}
	}
	return string(raw[1 : len(raw)-1]), true
}

// encode is json.Marshal without the escapes for HTML, which make stored arguments hard to read, and with an error
// for text that is not UTF-8, where json.Marshal would store another text.
func encode(v any) (json.RawMessage, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if !utf8.Valid(text) || bytes.Contains(text, []byte(`\ufffd`)) && mangled(v) {
		return nil, errors.New("not valid UTF-8; encode bytes as []byte, say")
	}
	if len(text) > 10_000 && !json.Valid(text) { // the decoder's own limit
		return nil, errors.New("nested more than 10,000 deep")
	}
	return text, nil
}

// mangled reports whether v's encoding has lost bytes: json writes those that are not UTF-8 as the escape of U+FFFD,
// and a U+FFFD that was there as it is. What is JSON already passes: it may say what it likes.
func mangled(v any) bool {
	switch v := v.(type) {
	case json.RawMessage:
		return false
	case []any:
		return slices.ContainsFunc(v, mangled)
	case map[string]any:
		return mangled(slices.Collect(maps.Keys(v))) || slices.ContainsFunc(slices.Collect(maps.Values(v)), mangled)
	}
	text, _ := json.Marshal(v)
	return bytes.Contains(bytes.ReplaceAll(text, []byte(`\\`), nil), []byte(`\ufffd`))
}
