package pinion

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file is the one argument rule. It reads in the order in which arguments travel:
//
//   - encode turns a Go value into JSON.
//   - EncodeArgs turns the arguments of a job into the two texts that a storage keeps.
//   - DecodeArgs splits those texts into one piece of JSON for each argument.
//   - params.decode fills a task's A with the pieces.
//   - paramsOf finds out, when a task is registered, which arguments its A has. It refuses those that cannot work.

// ---- Encoding values ----

var errNotUTF8 = errors.New("not valid UTF-8; encode bytes as []byte, say")

// encode returns v as JSON. It is json.Marshal with two differences: it does not escape HTML, because people
// read stored arguments, and it refuses text that is not UTF-8, where json.Marshal would store another text.
func encode(v any) (json.RawMessage, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if !utf8.Valid(text) {
		return nil, errNotUTF8
	}
	if hasReplacement(text) && !isText(reflect.ValueOf(v)) {
		return nil, errNotUTF8
	}
	// The decoder of encoding/json has a limit that its encoder has not.
	const deepest = 10_000
	if len(text) > deepest && !json.Valid(text) {
		return nil, errors.New("nested more than 10,000 deep")
	}
	return text, nil
}

// hasReplacement reports whether JSON contains U+FFFD, as a character or as its escape. encoding/json writes
// U+FFFD in place of what is not UTF-8; its versions differ in the form.
func hasReplacement(text []byte) bool {
	return bytes.Contains(text, []byte("\uFFFD")) || bytes.Contains(text, []byte(`\ufffd`))
}

// isText reports whether all text that encoding/json finds in v is valid UTF-8. A U+FFFD in the JSON does not
// answer that, because it may have been in v.
func isText(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Invalid: // a nil interface
		return true
	case reflect.Pointer, reflect.Interface:
		return isText(v.Elem()) // the element of nil is invalid
	}
	text, ok := ownText(v)
	if ok {
		return utf8.Valid(text)
	}
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Slice, reflect.Array:
		for _, element := range v.Seq2() {
			if !isText(element) {
				return false
			}
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			if !isTextKey(key) || !isText(value) {
				return false
			}
		}
	case reflect.Struct:
		for f, value := range v.Fields() {
			if hasJSON(f) && !isText(value) {
				return false
			}
		}
	}
	return true
}

// isTextKey is isText for the key of a map. encoding/json asks a key that is a string for no other text.
func isTextKey(key reflect.Value) bool {
	if key.Kind() == reflect.String {
		return utf8.ValidString(key.String())
	}
	return isText(key)
}

// ownText returns what v writes if its type has a method for that. encoding/json calls methods of the pointer
// only where it can take the address of the value.
func ownText(v reflect.Value) (text []byte, ok bool) {
	if v.CanAddr() {
		v = v.Addr()
	}
	if !v.CanInterface() { // an embedded struct of an unexported type: the methods are those of the outer struct
		return nil, false
	}
	switch v := v.Interface().(type) {
	case json.Marshaler:
		text, _ = v.MarshalJSON()
		return text, true
	case encoding.TextMarshaler:
		text, _ = v.MarshalText()
		return text, true
	}
	return nil, false
}

// ---- Storing: a job's arguments as two texts ----

// EncodeArgs returns the arguments of a job that is about to be stored: a JSON array and a JSON object, at
// most 1 MiB together (ErrTooLarge). It also checks the other fields that the caller of Enqueue sets; a job
// that cannot be stored is ErrBadArgs. It is for authors of storages: Enqueue calls it for each job before it
// stores any.
func (j *Job) EncodeArgs() (args, kwargs string, err error) {
	if err := j.checkFields(); err != nil {
		return "", "", err
	}
	args, kwargs = "[]", "{}"
	if len(j.Args) > 0 {
		text, err := encode(j.Args)
		if err != nil {
			return "", "", j.badArgs(err)
		}
		args = string(text)
	}
	if len(j.Kwargs) > 0 {
		text, err := encode(j.Kwargs)
		if err != nil {
			return "", "", j.badArgs(err)
		}
		kwargs = string(text)
	}
	if n := len(args) + len(kwargs); n > maxEncoded {
		return "", "", fmt.Errorf("%w: task %q: arguments of %d bytes, want at most %d; "+
			"store the data elsewhere and enqueue where it is", ErrTooLarge, j.Task, n, maxEncoded)
	}
	return args, kwargs, nil
}

const (
	maxLabel = 1 << 10 // bytes of a job's ID, Task, Queue and Key, each
	maxMeta  = 4 << 10 // bytes of a job's Meta as JSON
)

// checkFields checks what the caller of Enqueue has set beside the arguments.
func (j *Job) checkFields() error {
	if j == nil || j.Task == "" {
		return fmt.Errorf("%w: a job must name its task", ErrBadArgs)
	}
	for _, label := range [...]struct{ field, text string }{
		{"ID", j.ID}, {"Task", j.Task}, {"Queue", j.Queue}, {"Key", j.Key},
	} {
		if err := checkLabel(label.field, label.text); err != nil {
			return j.badArgs(err)
		}
	}
	year := j.RunAt.UTC().Year()
	if year < 0 || year > 9999 {
		return j.badArgs(fmt.Errorf("RunAt is in the year %d, want 0 to 9999", year))
	}
	schedule, periodic := strings.CutPrefix(j.Key, "periodic:")
	if periodic && j.ID != periodicID(schedule, j.RunAt) {
		return j.badArgs(fmt.Errorf("the Key is %q, but keys that begin with periodic: belong to a Worker's Periodic; "+
			"choose another", j.Key))
	}
	return j.checkMeta()
}

// checkLabel checks a text that jobs are found by. The bound keeps indexes small.
func checkLabel(field, text string) error {
	if len(text) > maxLabel {
		return fmt.Errorf("the %s has %d bytes, want at most %d: %.100q…", field, len(text), maxLabel, text)
	}
	return checkText(field, text)
}

// checkLimited checks the name of a queue that gets a limit: a name that no job can have is a mistake.
func checkLimited(queue string) error {
	if err := checkLabel("Queue", queue); err != nil {
		return fmt.Errorf("%w: limit: %w", ErrBadArgs, err)
	}
	return nil
}

// checkText checks that every storage can keep a text as it is.
func checkText(field, text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("the %s %.100q is not valid UTF-8", field, text)
	}
	if strings.Contains(text, "\x00") {
		return fmt.Errorf("the %s %.100q contains a NUL", field, text)
	}
	return nil
}

func (j *Job) checkMeta() error {
	if len(j.Meta) == 0 {
		return nil
	}
	for key, value := range j.Meta {
		if err := checkText("name in Meta", key); err != nil {
			return j.badArgs(err)
		}
		if err := checkText("value in Meta", value); err != nil {
			return j.badArgs(err)
		}
	}
	text, err := json.Marshal(j.Meta)
	if err != nil {
		return j.badArgs(err)
	}
	if len(text) > maxMeta {
		return fmt.Errorf("%w: task %q: Meta of %d bytes as JSON, want at most %d",
			ErrTooLarge, j.Task, len(text), maxMeta)
	}
	return nil
}

func (j *Job) badArgs(err error) error {
	return fmt.Errorf("%w: task %.100q: %w", ErrBadArgs, j.Task, err)
}

// ---- Splitting: the two texts as one piece of JSON for each argument ----

// DecodeArgs sets Args and Kwargs from the texts that EncodeArgs returned. Each argument becomes a
// json.RawMessage. Text that isn't a JSON array and a JSON object in valid UTF-8 is ErrBadArgs. It is for
// authors of storages.
func (j *Job) DecodeArgs(args, kwargs string) error {
	// Most jobs have one kind of arguments only, so the empty texts are worth a look.
	if args != "[]" && !isJSON(args, '[') {
		return fmt.Errorf("%w: stored args are not a JSON array: %.100q", ErrBadArgs, args)
	}
	if kwargs != "{}" && !isJSON(kwargs, '{') {
		return fmt.Errorf("%w: stored kwargs are not a JSON object: %.100q", ErrBadArgs, kwargs)
	}
	j.splitArgs(args, kwargs)
	return nil
}

// isJSON reports whether text is JSON of the kind that begins with the byte begin. It must be valid UTF-8
// too, because encoding/json would read other bytes as U+FFFD.
func isJSON(text string, begin byte) bool {
	trimmed := strings.TrimLeft(text, " \t\r\n")
	return trimmed != "" && trimmed[0] == begin && json.Valid([]byte(text)) && utf8.ValidString(text)
}

// splitArgs is DecodeArgs for text that is known to be valid.
func (j *Job) splitArgs(args, kwargs string) {
	j.Args, j.Kwargs = nil, nil
	list := newSplitter(args)
	for list.more() {
		j.Args = append(j.Args, list.next())
	}
	object := newSplitter(kwargs)
	for object.more() {
		if j.Kwargs == nil {
			j.Kwargs = make(map[string]any)
		}
		name := decodeString(object.next())
		j.Kwargs[name] = object.next() // the last of several with one name counts, as in encoding/json
	}
}

// splitter cuts a JSON array or object into its elements and leaves them as they are.
//
// json.Unmarshal into a slice or a map of json.RawMessage does the same with several times as many
// allocations. That costs a worker 11 % of its time with a file, and 28 % in memory.
type splitter struct {
	rest []byte // what follows the elements so far; no two elements share memory that append could reach
}

// newSplitter returns a splitter for text, which must be a valid JSON array or object.
func newSplitter(text string) splitter {
	start, end := 0, len(text)
	for isSpace(text[start]) {
		start++
	}
	for isSpace(text[end-1]) {
		end--
	}
	return splitter{[]byte(text[start+1 : end-1])} // without the brackets
}

// more reports whether an element follows, which next returns then.
//
// In valid JSON the elements are all that there is beside white space, commas and colons. So an object yields
// its names and its values in turn.
func (s *splitter) more() bool {
	for len(s.rest) > 0 && (isSpace(s.rest[0]) || s.rest[0] == ',' || s.rest[0] == ':') {
		s.rest = s.rest[1:]
	}
	return len(s.rest) > 0
}

// next returns the next element. There must be one.
func (s *splitter) next() json.RawMessage {
	s.more()
	end := endOfValue(s.rest)
	value := s.rest[:end:end]
	s.rest = s.rest[end:]
	return value
}

// isSpace reports whether c is white space in JSON.
func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// endOfValue returns the length of the JSON value at the start of text.
func endOfValue(text []byte) int {
	switch text[0] {
	case '"':
		return endOfString(text)
	case '[', '{':
		return endOfBrackets(text)
	}
	for i, c := range text { // a number, true, false or null
		if c == ',' || isSpace(c) {
			return i
		}
	}
	return len(text)
}

// endOfString returns the length of the JSON string at the start of text.
func endOfString(text []byte) int {
	escaped := false // by the backslash before
	for i, c := range text[1:] {
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			return i + 2
		}
	}
	return len(text) // not reached, because the text is valid
}

// endOfBrackets returns the length of the JSON array or object at the start of text.
func endOfBrackets(text []byte) int {
	depth := 0
	for i := 0; ; i++ {
		switch text[i] {
		case '"':
			i += endOfString(text[i:]) - 1
		case '[', '{':
			depth++
		case ']', '}':
			depth--
			if depth == 0 {
				return i + 1
			}
		}
	}
}

// decodeString returns the text of a valid JSON string.
func decodeString(raw json.RawMessage) string {
	if text, ok := plainString(raw); ok {
		return text
	}
	var text string
	_ = json.Unmarshal(raw, &text) // cannot fail
	return text
}

// plainString returns the text of a JSON string without escapes and of ASCII only, as most are. For anything
// else it reports false. It spares most strings the decoder.
func plainString(raw json.RawMessage) (text string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	inner := raw[1 : len(raw)-1]
	for _, c := range inner {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return "", false
		}
	}
	return string(inner), true
}

// ---- Decoding into A ----

// params are the arguments that a task takes, as its A declares them.
type params struct {
	task   string
	whole  bool    // A is *Job: the task takes whatever arguments there are
	single bool    // A is one argument, not a struct with a field for each
	fields []field // in the order of declaration; with single, A itself
	takes  string  // the arguments in words, for errors
	exact  bool    // A has an interface somewhere, in which a number must become a json.Number and not a float64
}

// field is one argument.
type field struct {
	name   string // its name in JSON
	index  []int  // the way to it from A: one step, or more through embedded structs, or none to A itself
	quoted bool   // the json tag has the option ",string"
}

// decode fills dst, a pointer to an A, with a job's arguments. It ignores names that the task does not know,
// as encoding/json does, so that a deploy may add a field or remove one while jobs with the other form wait.
func (p *params) decode(job *Job, dst any) error {
	if whole, ok := dst.(**Job); ok {
		*whole = job.clone()
		return nil
	}
	given, err := p.match(job)
	if err != nil {
		return err
	}
	for i, arg := range given {
		if arg == nil { // not given: the field stays zero
			continue
		}
		if err := p.fill(dst, p.fields[i], arg); err != nil {
			return err
		}
	}
	return nil
}

// match returns the argument for each field, nil where there is none.
func (p *params) match(job *Job) ([]any, error) {
	fits := len(job.Args) <= len(p.fields)
	if p.single {
		fits = len(job.Args) == 1
	}
	if !fits {
		return nil, p.bad("it takes %s; got %d by position and %d by name",
			p.takes, len(job.Args), len(job.Kwargs))
	}
	given := make([]any, len(p.fields))
	copy(given, job.Args)
	for name, arg := range job.Kwargs {
		i := p.find(name)
		if i < 0 {
			continue // see unknown
		}
		if i < len(job.Args) || given[i] != nil {
			return nil, p.bad("argument %q is given twice", p.fields[i].name)
		}
		given[i] = arg
	}
	return given, nil
}

// unknown returns the names of a job's arguments that the task does not know, sorted. decode ignores them.
// The worker warns of them, and Registry.Check refuses them.
func (p *params) unknown(job *Job) []string {
	if p.whole {
		return nil
	}
	var names []string
	for name := range job.Kwargs {
		if p.find(name) < 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// find returns the index of the field with a name, or -1. Like encoding/json it prefers the exact name and
// then takes one that differs in case.
func (p *params) find(name string) int {
	if p.single {
		return -1 // the argument has no name
	}
	i := slices.IndexFunc(p.fields, func(f field) bool { return f.name == name })
	if i < 0 {
		i = slices.IndexFunc(p.fields, func(f field) bool { return strings.EqualFold(f.name, name) })
	}
	return i
}

// fill decodes one argument into its field of dst, a pointer to an A.
func (p *params) fill(dst any, f field, arg any) error {
	raw, ok := arg.(json.RawMessage) // as storages return arguments; a Job made by hand may hold anything
	if !ok {
		var err error
		raw, err = encode(arg)
		if err != nil {
			return p.bad("argument %q: %v", f.name, err)
		}
	}
	value := reflect.ValueOf(dst).Elem()
	for _, i := range f.index {
		value = value.Field(i)
	}
	if f.quoted {
		// encoding/json heeds the option ",string" only for a field of a struct, so it gets the struct.
		object, err := encode(map[string]any{f.name: raw})
		if err != nil {
			return p.bad("argument %q: %v", f.name, err)
		}
		return p.misfit(f, value.Type(), p.unmarshal(object, dst))
	}
	return p.misfit(f, value.Type(), p.unmarshal(raw, value.Addr().Interface()))
}

// misfit returns the error for an argument that the decoder refused with err. It returns nil for nil.
func (p *params) misfit(f field, want reflect.Type, err error) error {
	if err == nil {
		return nil
	}
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return p.bad("argument %q: expected %v: %v", f.name, want, err)
	}
	where := ""
	if wrong.Field != "" {
		where = " in " + wrong.Field
	}
	return p.bad("argument %q: expected %v%s, got %s", f.name, wrong.Type, where, wrong.Value)
}

// unmarshal is json.Unmarshal, but for strings that need no decoder, and for numbers in interfaces.
func (p *params) unmarshal(raw json.RawMessage, into any) error {
	if target, ok := into.(*string); ok {
		if text, ok := plainString(raw); ok {
			*target = text
			return nil
		}
	}
	if !p.exact {
		return json.Unmarshal(raw, into)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

func (p *params) bad(format string, args ...any) error {
	return fmt.Errorf("%w: task %q: %s", ErrBadArgs, p.task, fmt.Sprintf(format, args...))
}

// ---- Registration: which arguments a type has ----

// paramsOf returns the arguments that fill a t. It panics for a type that cannot work: that is a mistake in
// the program.
func paramsOf(task string, t reflect.Type) *params {
	p := &params{task: task}
	switch {
	case t == reflect.TypeFor[*Job]():
		p.whole = true
	case hasFields(t):
		p.takeFields(t)
	default:
		p.takeSingle(t)
	}
	return p
}

// hasFields reports whether arguments fill t field by field.
func hasFields(t reflect.Type) bool { return t.Kind() == reflect.Struct && !decodesItself(t) }

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// decodesItself reports whether t, such as time.Time, has a method that encoding/json fills it by.
func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler)
}

// encodesItself reports whether t has a method that encoding/json writes it by.
func encodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonMarshaler) || p.Implements(textMarshaler)
}

func (p *params) takeSingle(t reflect.Type) {
	p.single = true
	p.fields = []field{{name: "1"}}
	p.takes = fmt.Sprintf("exactly one positional argument, %v", t)
	p.checkArgument("A", t)
}

// takeFields makes the fields of a struct the arguments. Of several fields with one name encoding/json fills
// the least deeply embedded one. Of several at that depth it fills none, or chooses by their tags; those are
// refused.
func (p *params) takeFields(t reflect.Type) {
	p.checkMethods("A", t)
	all := p.list(t, nil)
	var names []string
	for _, f := range all {
		if isHidden(f, all) {
			continue
		}
		if slices.Contains(names, f.name) {
			p.refuse("two fields of A are named %q in JSON", f.name)
		}
		names = append(names, f.name)
		p.fields = append(p.fields, f)
	}
	p.takes = strings.Join(names, ", ")
	if len(names) == 0 {
		p.takes = "no arguments"
		if t.NumField() > 0 {
			p.refuse("A, a %v, has no exported field", t)
		}
	}
}

// isHidden reports whether another field has the name of f and is less deeply embedded.
func isHidden(f field, all []field) bool {
	return slices.ContainsFunc(all, func(other field) bool {
		return other.name == f.name && len(other.index) < len(f.index)
	})
}

// list returns the fields of a struct in the order of declaration, with those of an embedded struct in its
// place.
func (p *params) list(t reflect.Type, index []int) []field {
	var fields []field
	for f := range t.Fields() {
		if !hasJSON(f) {
			continue
		}
		name, quoted := p.parseTag(f)
		at := append(slices.Clone(index), f.Index...)
		promoted := f.Anonymous && name == "" // what is inside counts as declared here
		if promoted && f.Type.Kind() == reflect.Struct {
			fields = append(fields, p.list(f.Type, at)...)
			continue
		}
		if promoted && f.Type.Kind() == reflect.Pointer || !f.IsExported() {
			p.refuse("A embeds %v, which JSON cannot fill; embed a struct without a tag, or name the field",
				f.Type)
		}
		if name == "" {
			name = f.Name
		}
		p.checkArgument("A."+f.Name, f.Type)
		fields = append(fields, field{name, at, quoted})
	}
	return fields
}

// hasJSON reports whether encoding/json looks at a field of a struct.
func hasJSON(f reflect.StructField) bool {
	return f.Tag.Get("json") != "-" && (f.IsExported() || f.Anonymous)
}

// parseTag returns what a field's json tag says: its name, empty if there is none, and whether it has the
// option ",string". It asks encoding/json for the name, because the versions of that differ in what they
// accept as one.
func (p *params) parseTag(f reflect.StructField) (name string, quoted bool) {
	inTag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	quoted = slices.Contains(strings.Split(options, ","), "string")
	if inTag == "" {
		return "", quoted
	}
	const unnamed = "NoNameInTheTag"
	probe := reflect.StructOf([]reflect.StructField{{
		Name: unnamed,
		Type: reflect.TypeFor[int](),
		Tag:  reflect.StructTag("json:" + strconv.Quote(inTag+",")), // the comma keeps "-" from hiding the field
	}})
	text, err := json.Marshal(reflect.Zero(probe).Interface())
	if err != nil {
		p.refuse("the tag %s of the field %s: %v", f.Tag, f.Name, err)
	}
	object := newSplitter(string(text))
	name = decodeString(object.next())
	if name == unnamed {
		return "", quoted
	}
	return name, quoted
}

// checkArgument refuses an argument that cannot travel as JSON. A job with it could be stored and never run.
func (p *params) checkArgument(path string, t reflect.Type) {
	p.checkType(path, t, make(map[reflect.Type]bool))
	p.checkVisible(path, t)
}

// checkType refuses types that JSON cannot both write and read, wherever they are in t. It also notes in
// p.exact whether t has an interface somewhere. seen are the types that it has met: a type may contain
// itself.
func (p *params) checkType(path string, t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] || decodesItself(t) {
		return
	}
	seen[t] = true
	p.checkMethods(path, t)
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		p.refuse("%s: JSON cannot express %v", path, t)
	case reflect.Interface:
		if t.NumMethod() > 0 {
			p.refuse("%s: JSON cannot fill %v, an interface with methods; use a type that isn't one", path, t)
		}
		p.exact = true
	case reflect.Map:
		p.checkKey(path, t.Key())
		p.checkType(path, t.Elem(), seen)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		p.checkType(path, t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if hasJSON(f) {
				p.checkType(path+"."+f.Name, f.Type, seen)
			}
		}
	}
}

// checkVisible refuses an argument of which JSON shows nothing, such as a *sql.DB: it would arrive empty.
// Structs inside of an argument may have such a field. url.URL has one, which is seldom set.
func (p *params) checkVisible(path string, t reflect.Type) {
	containers := []reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map}
	for slices.Contains(containers, t.Kind()) {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.NumField() == 0 || decodesItself(t) {
		return
	}
	for f := range t.Fields() {
		if hasJSON(f) {
			return
		}
	}
	p.refuse("%s: JSON cannot fill %v, which has no exported field", path, t)
}

// checkMethods refuses a type that writes itself and does not read itself.
func (p *params) checkMethods(path string, t reflect.Type) {
	if encodesItself(t) && !decodesItself(t) {
		p.refuse("%s: JSON can write %v but not read it: it has MarshalJSON or MarshalText, "+
			"and neither UnmarshalJSON nor UnmarshalText", path, t)
	}
}

// checkKey refuses keys of a map that JSON cannot write and read. encoding/json takes strings, integers, and
// what writes and reads itself as text.
func (p *params) checkKey(path string, t reflect.Type) {
	writes := t.Implements(textMarshaler)
	reads := reflect.PointerTo(t).Implements(textUnmarshaler)
	if t.Kind() == reflect.String || writes && reads {
		return
	}
	isInteger := t.Kind() >= reflect.Int && t.Kind() <= reflect.Uintptr
	if !isInteger || writes || reads {
		p.refuse("%s: JSON cannot write and read %v as the keys of a map", path, t)
	}
}

// refuse panics for a mistake in the program.
func (p *params) refuse(format string, args ...any) {
	panic(fmt.Sprintf("pinion: task %q: %s", p.task, fmt.Sprintf(format, args...)))
}
