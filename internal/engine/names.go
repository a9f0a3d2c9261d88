package engine

import "strconv"

// Words for names that are easy to say and to type.
var (
	nameFirst = [...]string{"amber", "bold", "brisk", "calm", "clear", "coral", "deep", "early", "fair", "firm", "fleet", "fresh", "gentle", "grand", "keen", "level", "light", "merry", "mild", "noble", "open", "plain", "proud", "quick", "quiet", "ready", "rocky", "sharp", "shiny", "steady", "still", "swift"}
	nameLast  = [...]string{"anchor", "barge", "basin", "beacon", "bow", "brig", "buoy", "canal", "coast", "cutter", "deck", "dinghy", "dock", "ferry", "galley", "gull", "harbor", "helm", "hull", "jetty", "keel", "ketch", "lagoon", "mast", "pier", "quay", "reef", "rudder", "sail", "schooner", "tide", "wharf"}
)

// freeName derives a name from the id; a taken one gets a number.
func (e *Engine) freeName(id string) string {
	digits, err := strconv.ParseUint(id[:8], 16, 32)
	if err != nil {
		return id[:12]
	}
	name := nameFirst[digits%uint64(len(nameFirst))] + "-" + nameLast[digits/64%uint64(len(nameLast))]
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := 2; ; i++ {
		if _, taken := e.byName[name]; !taken {
			return name
		}
		name = name[:len(name)-len(suffix(i-1))] + suffix(i)
	}
}

// suffix is "" for the first of a name, then -2, -3, …
func suffix(i int) string {
	if i < 2 {
		return ""
	}
	return "-" + strconv.Itoa(i)
}
