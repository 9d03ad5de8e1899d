// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/utils/applet"
)

// victimDir makes the test binary a run that waits to be killed, in the folder that it names.
const victimDir = "BLUEPRINT_TEST_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		victim(dir)
	}
	goleak.VerifyTestMain(m)
}

type (
	textIO struct {
		Text string `json:"text"`
	}
	sayIn struct {
		Text string `json:"text"`
		Loud bool   `json:"loud,omitempty"`
	}
	countOut struct {
		N    int  `json:"n"`
		Even bool `json:"even"`
	}
)

// bench is a catalogue that counts.
type bench struct {
	mu    sync.Mutex
	calls []string
	fail  map[string]int // how often a text fails
	gate  chan struct{}  // meet waits here for somebody else
}

func (b *bench) called(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, what)
}

func (b *bench) count(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, c := range b.calls {
		if c == what {
			n++
		}
	}
	return n
}

func (b *bench) catalog() applet.Catalog {
	acts := applet.New("test.act", "Acts.", func(_ context.Context, _ *applet.Env, in textIO) (textIO, error) {
		b.called("act " + in.Text)
		return textIO{Text: fmt.Sprint(b.count("act " + in.Text))}, nil
	})
	acts.Acts = true
	return applet.Catalog{
		acts,
		applet.New("test.say", "Says.", func(_ context.Context, env *applet.Env, in sayIn) (textIO, error) {
			b.called("say " + in.Text)
			if env.Task != nil {
				env.Task("task-" + strings.ReplaceAll(in.Text, " ", "-"))
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.fail[in.Text] > 0 {
				b.fail[in.Text]--
				return textIO{}, errors.New("it went wrong")
			}
			if in.Loud {
				return textIO{Text: strings.ToUpper(in.Text)}, nil
			}
			return textIO(struct{ Text string }{in.Text}), nil
		}),
		applet.New("test.count", "Counts.", func(_ context.Context, _ *applet.Env, in struct {
			N int `json:"n"`
		},
		) (countOut, error) {
			b.called(fmt.Sprint("count ", in.N))
			return countOut{N: in.N + 1, Even: (in.N+1)%2 == 0}, nil
		}),
		applet.New("test.meet", "Waits for another.", func(ctx context.Context, _ *applet.Env, in textIO) (textIO, error) {
			select {
			case b.gate <- struct{}{}:
			case <-b.gate:
			case <-ctx.Done():
				return textIO{}, ctx.Err()
			}
			return in, nil
		}),
		applet.New("test.panic", "Breaks.", func(context.Context, *applet.Env, textIO) (textIO, error) { panic("broken") }),
	}
}

func newBench() *bench { return &bench{fail: map[string]int{}, gate: make(chan struct{})} }

func (b *bench) runner(t *testing.T) *Runner {
	t.Helper()
	return &Runner{Catalog: b.catalog(), Dir: t.TempDir()}
}

func parsed(t *testing.T, b *bench, text string) *Blueprint {
	t.Helper()
	made, err := Parse("test.yaml", []byte(text), b.catalog())
	require.NoError(t, err)
	return made
}

func runs(t *testing.T, r *Runner, b *Blueprint, inputs map[string]any, want string) {
	t.Helper()
	got, err := r.Run(t.Context(), b, inputs)
	require.NoError(t, err)
	require.JSONEq(t, want, string(got))
}

// LO-925
func TestStepsTakeInputsFromOthers(t *testing.T) {
	b := newBench()
	r := b.runner(t)
	made := parsed(t, b, `
name: test
inputs:
  who: {doc: somebody}
  loud: {default: true}
steps:
  - id: greet
    use: test.say
    with: {text: "hello ${inputs.who}, $${x}", loud: "${inputs.loud}"}
  - id: all
    each: [1, 2, "${inputs.who}"]
    use: test.say
    with: {text: "${index}: ${item}"}
result: {greeting: "${steps.greet.text}", list: "${steps.all[*].text}", second: "${steps.all[1].text}!", none: "${steps.all[7].text}"}
`)
	runs(t, r, made, map[string]any{"who": "Ada"}, `{"greeting": "HELLO ADA, ${X}", "list": ["0: 1", "1: 2", "2: Ada"], "second": "1: 2!", "none": null}`)
	_, err := r.Run(t.Context(), made, map[string]any{"wo": "Ada"})
	_, ok := errors.AsType[*InputError](err)
	require.True(t, ok, "%v", err)
	require.ErrorContains(t, err, `did you mean "who"?`)
	_, err = r.Run(t.Context(), made, nil)
	require.ErrorContains(t, err, `the input "who" has no default: give it a value (somebody)`)
}

// The same graph from a Go program.
//
// LO-925
func TestABlueprintOfAGoProgram(t *testing.T) {
	b := newBench()
	runs(t, b.runner(t), &Blueprint{Name: "go", Steps: []Step{
		{ID: "second", Use: "test.say", With: map[string]any{"text": "${steps.first.text}!"}},
		{ID: "first", Use: "test.say", With: map[string]any{"text": "one"}},
	}}, nil, `{"first": {"text": "one"}, "second": {"text": "one!"}}`)
	require.Equal(t, []string{"say one", "say one!"}, b.calls)
	runs(t, b.runner(t), &Blueprint{Name: "go", Inputs: map[string]Input{"n": {Default: 1 << 60}}, Steps: []Step{
		{ID: "a", Use: "test.say", Each: []string{"x", "y"}, With: map[string]any{"text": "${item}"}},
		{ID: "b", Use: "test.say", With: map[string]any{"text": "${steps.a[1].text} ${inputs.n}"}},
	}, Result: map[string]string{"b": "${steps.b.text}"}}, nil, `{"b": "y 1152921504606846976"}`)
}

// Two steps that wait for each other end only if they run at the same time; so do two items of one step.
//
// LO-925
func TestBranchesRunInParallel(t *testing.T) {
	b := newBench()
	runs(t, b.runner(t), parsed(t, b, `
name: test
steps:
  - {id: a, use: test.meet, with: {text: x}}
  - {id: b, use: test.meet, with: {text: y}}
  - {id: c, each: ["1", "2", "3", "4"], use: test.meet, with: {text: "${item}"}, after: [a, b]}
result: ${steps.c[*].text}
`), nil, `["1", "2", "3", "4"]`)
}

// LO-925
func TestConditionsLoopsAndRetries(t *testing.T) {
	b := newBench()
	b.fail["shaky"] = 2
	b.fail["unit"] = 1
	r := b.runner(t)
	runs(t, r, parsed(t, b, `
name: test
inputs: {flag: {default: false}, mode: {default: fast}}
steps:
  - {id: no, if: "${inputs.flag}", use: test.say, with: {text: never}}
  - {id: yes, if: "!${inputs.flag}", use: test.say, with: {text: always}}
  - {id: fast, if: '${inputs.mode} == "fast"', use: test.say, with: {text: fast}}
  - {id: slow, if: '${inputs.mode} != "fast"', use: test.say, with: {text: slow}}
  - {id: shaky, retry: 2, use: test.say, with: {text: shaky}}
  - id: group
    retry: 1
    repeat: {until: "${last.n} == 3", most: 5}
    steps:
      - {id: before, use: test.say, with: {text: "before ${last.n}"}}
      - {id: inner, use: test.say, with: {text: unit}, after: [before]}
      - {id: count, use: test.count, with: {n: 2}, after: [inner]}
    result: {n: "${steps.count.n}"}
  - id: bounded
    repeat: {until: "${last.even} == 7", most: 3}
    use: test.count
    with: {n: 4}
result: ["${steps.no}", "${steps.yes.text}", "${steps.fast.text}", "${steps.slow}", "${steps.shaky.text}", "${steps.group.n}", "${steps.bounded.n}"]
`), nil, `[null, "always", "fast", null, "shaky", 3, 5]`)
	require.Equal(t, 3, b.count("say shaky"))
	require.Equal(t, 2, b.count("say before "), "a group is tried again as a whole, though its first step had succeeded")
	require.Equal(t, 3, b.count("count 4"), "a loop runs anew each time")
	require.Zero(t, b.count("say never"))

	b.fail["shaky"] = 9
	_, err := (&Runner{Catalog: b.catalog(), Dir: t.TempDir()}).Run(t.Context(), &Blueprint{Name: "x", Steps: []Step{{ID: "s", Use: "test.say", Retry: 2, With: map[string]any{"text": "shaky"}}}}, nil)
	step, ok := errors.AsType[*StepError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "s", step.Path)
	require.Equal(t, 6, b.count("say shaky"))
}

// LO-925
func TestAPanicOfAStepIsItsError(t *testing.T) {
	b := newBench()
	_, err := b.runner(t).Run(t.Context(), &Blueprint{Name: "x", Steps: []Step{{ID: "s", Use: "test.panic", With: map[string]any{"text": ""}}}}, nil)
	_, ok := errors.AsType[*StepError](err)
	require.True(t, ok, "%v", err)
	require.ErrorContains(t, err, "broken")
}

const wrongs = `name: test
steps:
  - id: a
    use: test.sya
    with: {text: x}
  - id: b
    use: test.say
    with:
      txt: x
      text: "${steps.aa.text} ${inputs.none} ${nothing}"
  - id: c
    use: test.say
    with: {}
  - id: d
    use: test.say
    with: {text: "${steps.b.txet}"}
  - id: e
    use: test.say
    with: {text: "${steps.f.text}"}
  - id: f
    use: test.say
    with: {text: "${steps.e.text}"}
  - id: g
    use: test.say
    with: {text: 7}
  - id: h
    each: [1]
    use: test.say
    with: {text: "${item}"}
  - id: i
    use: test.say
    with: {text: "${steps.h.text} ${item} ${last}"}
    after: [ee]
    if: "steps.a"
  - id: a
    use: test.say
    steps: [{id: z, use: test.say, with: {text: x}}]
`

// LO-926
func TestABlueprintIsCheckedWholeBeforeItsFirstStep(t *testing.T) {
	b := newBench()
	_, err := Parse("test.yaml", []byte(wrongs), b.catalog())
	wrong, ok := errors.AsType[*CheckError](err)
	require.True(t, ok, "%v", err)
	for _, want := range []string{
		`test.yaml:4: steps[0].use: there is no applet "test.sya"; did you mean "test.say"?`,
		`test.yaml:9: steps[1].with.txt: test.say has no field "txt"; did you mean "text"?`,
		`test.yaml:10: steps[1].with.text: ${steps.aa.text}: there is no step "aa" here; did you mean "a"?`,
		`test.yaml:10: steps[1].with.text: ${inputs.none}: there is no input "none"`,
		`test.yaml:10: steps[1].with.text: ${nothing} is no reference`,
		`test.yaml:13: steps[2].with: test.say needs "text"`,
		`test.yaml:16: steps[3].with.text: ${steps.b.txet}: the result of test.say has no field "txet"; did you mean "text"?`,
		`test.yaml:17: steps[4]: steps wait for each other: e → f → e`,
		`test.yaml:25: steps[6].with.text: got number, want string`,
		`test.yaml:32: steps[8].with.text: ${steps.h.text}: the result of "h" is a list, since it has each: write ${steps.h[*].text}`,
		`test.yaml:32: steps[8].with.text: ${item} is only there in a step with each`,
		`test.yaml:32: steps[8].with.text: ${last} is only there in a step with repeat`,
		`test.yaml:33: steps[8].after[0]: there is no step "ee" in this graph`,
		`test.yaml:34: steps[8].if: "steps.a" is no condition`,
		`test.yaml:35: steps[9].id: there is another step "a" here`,
		`test.yaml:35: steps[9]: a step has either use, the name of an applet, or steps of its own`,
	} {
		require.Contains(t, err.Error(), want)
	}
	require.Len(t, wrong.Problems, 16, "%v", err)
	require.Empty(t, b.calls)
}

// LO-926
func TestTheFormOfTheFileIsChecked(t *testing.T) {
	for text, says := range map[string]string{
		"name: test\nsteps:\n  - id: a\n    ues: test.say\n":          `test.yaml:4: steps[0].ues: there is no such field; did you mean "use"?`,
		"name: test\nstep: []\n":                                      `test.yaml:2: step: there is no such field; did you mean "steps"?`,
		"name: test\nsteps: []\n":                                     "test.yaml:2: steps: ",
		"name: Test\nsteps: [{id: a}]\n":                              "test.yaml:1: name: ",
		"name: test\nname: again\nsteps: []\n":                        "test.yaml:2: ",
		"name: test\nsteps: [{id: a, repeat: {until: x, mots: 1}}]\n": `did you mean "most"?`,
		"name: test\nsteps: &s [{id: a}]\n":                           "test.yaml:2: anchors",
		"name: [\n":                                                   "this is not YAML",
		"":                                                            "has to hold one blueprint",
		"- a\n":                                                       "got array, want object",
		"name: test\nsteps: " + strings.Repeat("[", 100) + strings.Repeat("]", 100): "nested too deep",
		"name: test\nsteps: [{id: a, use: test.say, with: {text: x}, retry: 99}]\n": "steps[0].retry: ",

		strings.Repeat("#", maxFile+1): "at most 1048576 bytes",
	} {
		_, err := Parse("test.yaml", []byte(text), newBench().catalog())
		_, ok := errors.AsType[*CheckError](err)
		require.True(t, ok, "%.60s: %v", text, err)
		require.ErrorContains(t, err, says)
	}
	_, err := newBench().runner(t).Run(t.Context(), &Blueprint{Name: "x"}, nil)
	_, ok := errors.AsType[*CheckError](err)
	require.True(t, ok, "of a Go program too: %v", err)
}

const twoSteps = `
name: test
inputs: {end: {default: x}}
steps:
  - {id: pure, use: test.say, with: {text: a}}
  - {id: act, use: test.act, with: {text: b}, after: [pure]}
  - {id: last, use: test.say, with: {text: "${inputs.end} ${steps.act.text}"}}
result: ${steps.last.text}
`

// LO-927
func TestWhatIsUnchangedIsNotDoneAgain(t *testing.T) {
	b := newBench()
	r := b.runner(t)
	made := parsed(t, b, twoSteps)
	runs(t, r, made, nil, `"x 1"`)
	runs(t, r, made, nil, `"x 2"`)
	require.Equal(t, []string{"say a", "act b", "say x 1", "act b", "say x 2"}, b.calls, "what depends on more than its input is done in each run")
	runs(t, r, made, map[string]any{"end": "y"}, `"y 3"`)
	require.Equal(t, 1, b.count("say a"), "other runs share what is kept")

	log := filepath.Join(r.Dir, keptName)
	content, err := os.ReadFile(log)
	require.NoError(t, err)
	damaged := strings.Replace(string(content), `"text":"a"`, `"text":"b"`, 1) // as after a crash of the machine
	require.NotEqual(t, string(content), damaged)
	require.NoError(t, os.WriteFile(log, []byte(damaged[:len(damaged)-3]), 0o600))
	runs(t, r, made, nil, `"x 4"`)
	require.Equal(t, 2, b.count("say a"), "what is not whole is done again")
}

// LO-927
func TestARunThatFailedGoesOn(t *testing.T) {
	b := newBench()
	r := b.runner(t)
	made := parsed(t, b, twoSteps)
	b.fail["x 1"] = 1
	_, err := r.Run(t.Context(), made, nil)
	require.ErrorContains(t, err, "step last (test.say): it went wrong")
	record, err := Show(r.Dir)
	require.NoError(t, err)
	require.Equal(t, Failed, record.State)
	runs(t, r, made, nil, `"x 1"`)
	require.Equal(t, 1, b.count("act b"), "the same run does not act twice")
	record, err = Show(r.Dir)
	require.NoError(t, err)
	require.Equal(t, Done, record.State)
	runs(t, r, made, nil, `"x 2"`)
}

// victim runs steps until somebody kills it in the third.
func victim(dir string) {
	b := newBench()
	made, err := Parse("test.yaml", []byte(killed), b.catalog())
	if err == nil {
		_, err = (&Runner{Catalog: b.catalog(), Dir: dir}).Run(context.Background(), made, nil)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

const killed = `
name: test
steps:
  - {id: act, use: test.act, with: {text: a}}
  - {id: say, use: test.say, with: {text: "b ${steps.act.text}"}}
  - {id: wait, use: test.meet, with: {text: "${steps.say.text}"}}
`

// LO-927
func TestARunThatWasKilledGoesOn(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		record, err := Show(dir)
		return err == nil && len(record.Steps) == 2
	}, time.Minute, 5*time.Millisecond)
	b := newBench()
	r := &Runner{Catalog: b.catalog(), Dir: dir}
	made := parsed(t, b, killed)
	_, err := r.Run(t.Context(), made, nil)
	_, busy := errors.AsType[*BusyError](err)
	require.True(t, busy, "%v", err)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	record, err := Show(dir)
	require.NoError(t, err)
	require.Equal(t, Began, record.State)
	journal, err := os.OpenFile(filepath.Join(dir, journalName), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = journal.WriteString(`{"path":"half`)
	require.NoError(t, errors.Join(err, journal.Close()))

	go func() { b.gate <- struct{}{} }()
	runs(t, r, made, nil, `{"act": {"text": "1"}, "say": {"text": "b 1"}, "wait": {"text": "b 1"}}`)
	require.Empty(t, b.calls, "what was done is not done again")
}

// LO-928
func TestARunLeavesATreeOfWhatItDid(t *testing.T) {
	b := newBench()
	r := b.runner(t)
	r.Proof = func(_ context.Context, id string) ([]byte, error) { return []byte(`{"task": "` + id + `"}`), nil }
	var told []string
	var mu sync.Mutex
	r.Step = func(e Entry) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, e.Path)
	}
	made := parsed(t, b, `
name: test
steps:
  - id: month
    each: [may, june]
    steps:
      - {id: draft, use: test.say, with: {text: "${item}"}}
      - {id: never, if: '${steps.draft.text} == 1', use: test.say, with: {text: x}}
`)
	runs(t, r, made, nil, `{"month": [{"draft": {"text": "may"}, "never": null}, {"draft": {"text": "june"}, "never": null}]}`)
	record, err := Show(r.Dir)
	require.NoError(t, err)
	require.Equal(t, "test", record.Name)
	require.Equal(t, Done, record.State)
	states := map[string]State{}
	for _, s := range record.Steps {
		states[s.Path] = s.State
	}
	require.Equal(t, map[string]State{"month[0].draft": Done, "month[1].draft": Done, "month[0].never": Skipped, "month[1].never": Skipped}, states)
	slices.Sort(told)
	require.Equal(t, []string{"month[0].draft", "month[0].never", "month[1].draft", "month[1].never"}, told)
	slices.Sort(record.Proofs)
	require.Equal(t, []string{"proofs/task-june.json", "proofs/task-may.json"}, record.Proofs)
	proof, err := os.ReadFile(filepath.Join(r.Dir, "proofs/task-may.json"))
	require.NoError(t, err)
	require.JSONEq(t, `{"task": "task-may"}`, string(proof))
	require.Contains(t, string(record.Result), "june")

	runs(t, r, made, nil, string(record.Result))
	record, err = Show(r.Dir)
	require.NoError(t, err)
	require.Len(t, record.Proofs, 2, "the proofs of what is kept are kept")
	_, err = Show(t.TempDir())
	require.ErrorContains(t, err, "run one there first")
}

// LO-928
func TestAPlan(t *testing.T) {
	b := newBench()
	require.Equal(t, []Planned{
		{Path: "pure", Use: "test.say"}, {Path: "act", Use: "test.act", After: []string{"pure"}}, {Path: "last", Use: "test.say", After: []string{"act"}},
	}, parsed(t, b, twoSteps).Plan())
	require.Empty(t, b.calls)
}

// The committed schema is the types'.
//
// LO-925
func TestTheSchemaIsTheTypes(t *testing.T) {
	want, err := Schema()
	require.NoError(t, err)
	have, err := os.ReadFile("../../contracts/blueprint/blueprint.schema.json")
	require.NoError(t, err)
	require.Equal(t, string(want), string(have), "run `go tool mage gen:all`")
}

// LO-926
func FuzzParse(f *testing.F) {
	f.Add([]byte(wrongs))
	f.Add([]byte(twoSteps))
	f.Add([]byte("name: x\nsteps: [{id: a, use: test.say, with: {text: '${steps.a[*].x[3]}'}, if: '${item} == {'}]"))
	b := newBench()
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := Parse("x", text, b.catalog())
		if _, ok := errors.AsType[*CheckError](err); err != nil && !ok {
			t.Fatalf("not typed: %v", err)
		}
	})
}

// many is a chain of steps, each of which takes the result of the one before.
func many(n int) *Blueprint {
	b := &Blueprint{Name: "many", Steps: []Step{{ID: "s0", Use: "test.count", With: map[string]any{"n": 0}}}}
	for i := 1; i < n; i++ {
		b.Steps = append(b.Steps, Step{ID: fmt.Sprintf("s%d", i), Use: "test.count", With: map[string]any{"n": fmt.Sprintf("${steps.s%d.n}", i-1)}})
	}
	b.Result = fmt.Sprintf("${steps.s%d.n}", n-1)
	return b
}

// A run of 1,000 kept steps, for which a second is the aim.
//
// LO-945
func BenchmarkThousandKeptSteps(b *testing.B) {
	r := &Runner{Catalog: newBench().catalog(), Dir: b.TempDir()}
	made := many(1000)
	first, err := r.Run(b.Context(), made, nil)
	require.NoError(b, err)
	require.JSONEq(b, "1000", string(first))
	for b.Loop() {
		if _, err := r.Run(b.Context(), made, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/step")
}

// What a step costs beside its call, for which 50 µs are the aim: it runs, and its result is kept. The same calls alone are taken off.
//
// LO-945
func BenchmarkAStepsOwnCost(b *testing.B) {
	const steps = 1000
	made := many(steps)
	catalog := newBench().catalog()
	count := catalog[slices.IndexFunc(catalog, func(a applet.Applet) bool { return a.Name == "test.count" })]
	var calls time.Duration
	for b.Loop() {
		if _, err := (&Runner{Catalog: catalog, Dir: b.TempDir()}).Run(b.Context(), made, nil); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		began := time.Now()
		for n := range steps {
			if _, err := count.Run(b.Context(), &applet.Env{}, fmt.Appendf(nil, `{"n":%d}`, n)); err != nil {
				b.Fatal(err)
			}
		}
		calls += time.Since(began)
		b.StartTimer()
	}
	own := b.Elapsed() - calls
	b.ReportMetric(float64(own.Microseconds())/float64(b.N)/steps, "µs/step")
	b.ReportMetric(float64(calls.Microseconds())/float64(b.N)/steps, "µs/call")
}
