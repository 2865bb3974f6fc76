package browser

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pinion-queue/pinion/web"
	"github.com/pinion-queue/pinion/web/internal/chromium"
)

var update = flag.Bool("update", false, "take the screenshots of docs/page.md anew")

// The screenshots of the documents show this house. They hold times, so no two runs make the same; -update renews them.
func TestTheScreenshotsOfTheDocumentsExist(t *testing.T) {
	const folder = "../../docs/page"
	shots := []struct {
		name, address string
		view          chromium.View
	}{
		{"overview.png", "", chromium.View{Height: 860}},
		{"dead.png", "dead", chromium.View{Height: 860, Dark: true}},
		{"job.png", "", chromium.View{Width: 390, Height: 844}}, // of a job that runs
	}
	for _, shot := range shots {
		if *update {
			break
		}
		_, err := os.Stat(filepath.Join(folder, shot.name))
		if err != nil {
			t.Errorf("%v; go test -run Screenshots -update ./web/browser takes it", err)
		}
	}
	if !*update {
		return
	}
	b := browser(t)
	h := newHouse(t, "", &web.Options{Write: true})
	h.age(t)
	for _, shot := range shots {
		if shot.name == "job.png" {
			shot.address = "job/" + h.running[0]
		}
		p := newTab(t, b, shot.view, h.url+shot.address)
		taken, err := p.Screenshot(p.ctx)
		p.must(err)
		err = os.WriteFile(filepath.Join(folder, shot.name), small(t, taken), 0o644)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// age makes the house look as if it had worked for a day: its jobs are all of this second, and charts need a history.
func (h *house) age(t *testing.T) {
	t.Helper()
	db := h.sql(t)
	change := func(statement string, args ...any) {
		t.Helper()
		_, err := db.ExecContext(t.Context(), statement, args...)
		if err != nil {
			t.Fatal(err)
		}
	}
	change(`UPDATE dlq SET failed_at = failed_at - 17.3 * ((SELECT max(rowid) FROM dlq) - rowid)`)
	change(`UPDATE jobs SET created_at = created_at - 37 * ((SELECT max(rowid) FROM jobs) - rowid),
		finished_at = finished_at - 36.5 * ((SELECT max(rowid) FROM jobs) - rowid)`)
	change(`DELETE FROM pinion_ends`)
	now := time.Now()
	for _, of := range []struct {
		queue, task string
		perMinute   float64
	}{
		{"default", "send_welcome", 70}, {"default", "charge_card", 31}, {"images", "thumbnail", 18},
		{"reports", "monthly_report", 2},
	} {
		for minute := range 24 * 60 {
			at := now.Add(-time.Duration(minute) * time.Minute)
			wave := 0.6 + 0.35*math.Sin(float64(minute)/1440*2*math.Pi+1) + 0.1*math.Sin(float64(minute*minute))
			done := int(of.perMinute * wave)
			failed := 0
			if of.task == "charge_card" && minute >= 14 && minute < 31 {
				done, failed = done/3, 24+minute%5
			}
			begin := at.Truncate(time.Minute)
			if at.Before(now.Add(-2 * time.Hour).Truncate(time.Hour)) { // as a storage merges them
				begin = at.Truncate(time.Hour)
			}
			change(`INSERT INTO pinion_ends (at, queue, task, succeeded, failed, took) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
				ON CONFLICT DO UPDATE SET succeeded=succeeded+?4, failed=failed+?5, took=took+?6`,
				begin.Unix(), of.queue, of.task, done, failed, float64(done)*0.4)
		}
	}
}

// small returns a screenshot with the 256 colors that it has most of, which makes its file a third as large.
func small(t *testing.T, data []byte) []byte {
	t.Helper()
	whole, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	bounds := whole.Bounds()
	count := make(map[color.RGBA]int)
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(whole.At(x, y)).(color.RGBA) }
	for y := range bounds.Dy() {
		for x := range bounds.Dx() {
			count[at(x, y)]++
		}
	}
	var colors []color.RGBA
	for c := range count {
		colors = append(colors, c)
	}
	slices.SortFunc(colors, func(a, b color.RGBA) int { return count[b] - count[a] })
	palette := make(color.Palette, 0, 256)
	for _, c := range colors[:min(256, len(colors))] {
		palette = append(palette, c)
	}
	index := make(map[color.RGBA]uint8)
	for _, c := range colors {
		index[c] = uint8(palette.Index(c))
	}
	fewer := image.NewPaletted(bounds, palette)
	for y := range bounds.Dy() {
		for x := range bounds.Dx() {
			fewer.SetColorIndex(x, y, index[at(x, y)])
		}
	}
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, fewer)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
