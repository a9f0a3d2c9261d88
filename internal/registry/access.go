package registry

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/berthcloud/berth/api"
)

// anyone is the name, in the file of rights, of whoever has not logged in.
const anyone = "anyone"

// The rights that a user has to a repository.
const (
	pull    = "pull"
	push    = "push"
	remove  = "delete"
	maxFile = 1 << 20 // bytes of a file of users or rights
)

// access says who a client is, and what he may do.
type access struct {
	users  *watched[map[string][]byte] // bcrypt hashes, by name
	rights *watched[[]rule]
	key    [32]byte // of tokens and of remembered passwords

	checking chan struct{} // bounds the processors that guessing passwords can take

	mu    sync.Mutex
	known map[string]time.Time // until when a password need not be checked anew, by its HMAC
}

// rule is one line of the file of rights.
type rule struct {
	user, pattern string
	rights        []string
}

// tokenTime is how long a login lasts. What a user may do is looked up each time.
const tokenTime = 5 * time.Minute

func newAccess(c Config) (*access, error) {
	a := &access{checking: make(chan struct{}, 2), known: map[string]time.Time{}}
	rand.Read(a.key[:])
	var err error
	if a.users, err = watch(c.Log, parseUsers, c.Users); err != nil {
		return nil, err
	}
	own := []rule{{user: "*", pattern: c.Name + "/*", rights: []string{pull, push, remove}}}
	if c.Rights == "" {
		a.rights = &watched[[]rule]{value: own}
		return a, nil
	}
	a.rights, err = watch(c.Log, parseRights, c.Rights)
	return a, err
}

// parseUsers reads a file as htpasswd -B writes it.
func parseUsers(paths []string) (map[string][]byte, error) {
	users := map[string][]byte{}
	err := lines(paths[0], func(line string) error {
		name, hash, ok := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); !ok || name == "" || name == anyone || name == "*" || err != nil {
			return errors.New("no user with a bcrypt hash; write the line with htpasswd -B")
		}
		users[name] = []byte(hash)
		return nil
	})
	return users, err
}

// parseRights reads a file of lines of the form "USER PATTERN RIGHT[,RIGHT]…".
func parseRights(paths []string) ([]rule, error) {
	var rules []rule
	err := lines(paths[0], func(line string) error {
		f := strings.Fields(line)
		if len(f) != 3 {
			return errors.New("write a user, a pattern of image names, and rights, as in: ci localhost/team/* pull,push")
		}
		r := rule{user: f[0], pattern: f[1], rights: strings.Split(f[2], ",")}
		if at := strings.IndexByte(r.pattern, '*'); at >= 0 && at != len(r.pattern)-1 {
			return fmt.Errorf("pattern %q: a * may stand at its end only", r.pattern)
		}
		for _, right := range r.rights {
			if right != pull && right != push && right != remove {
				return fmt.Errorf("right %q: use pull, push and delete", right)
			}
		}
		rules = append(rules, r)
		return nil
	})
	return rules, err
}

// lines calls f with each line of a file that says something.
func lines(path string, f func(string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return api.E("", api.Invalid, path, err)
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || st.Size() > maxFile {
		return api.E("", api.Invalid, path, fmt.Errorf("it has more than %d bytes", maxFile))
	}
	in := bufio.NewScanner(file)
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := f(line); err != nil {
			return api.E("", api.Invalid, path+":"+strconv.Itoa(n), err)
		}
	}
	return api.E("", api.Invalid, path, in.Err())
}

// errLogin asks the client to log in.
var errLogin = &refusal{http.StatusUnauthorized, "UNAUTHORIZED", "log in, as with docker login, or with another name and password"}

// identify returns the name of the user who sends a request: "" of one who has not
// logged in.
func (a *access) identify(r *http.Request) (string, error) {
	if text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return a.tokenUser(text)
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return "", nil
	}
	if !a.check(r, user, password) {
		return "", errLogin
	}
	return user, nil
}

// nobody is the hash of no password: an unknown name takes as long as a known one.
var nobody = []byte("$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5ca5x5S0H4NQ0VHf3Ww6LZtTpFMKm")

// check reports whether a password is a user's.
func (a *access) check(r *http.Request, user, password string) bool {
	hash, known := a.users.get()[user]
	if !known {
		hash = nobody
	}
	mark := string(a.sign(user + "\x00" + password + "\x00" + string(hash)))
	a.mu.Lock()
	until := a.known[mark]
	a.mu.Unlock()
	if time.Now().Before(until) {
		return true
	}
	select {
	case a.checking <- struct{}{}:
		defer func() { <-a.checking }()
	case <-r.Context().Done():
		return false
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) > 1000 {
		clear(a.known)
	}
	a.known[mark] = time.Now().Add(tokenTime)
	return true
}

func (a *access) sign(text string) []byte {
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// newToken is a proof, for tokenTime, that its bearer is a user.
func (a *access) newToken(user string) string {
	text := strconv.FormatInt(time.Now().Add(tokenTime).Unix(), 10) + " " + user
	return base64.RawURLEncoding.EncodeToString(append(a.sign("token "+text), text...))
}

// tokenUser returns the user whose token it is.
func (a *access) tokenUser(token string) (string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < sha256.Size {
		return "", errLogin
	}
	mac, text := b[:sha256.Size], string(b[sha256.Size:])
	until, user, _ := strings.Cut(text, " ")
	end, err := strconv.ParseInt(until, 10, 64)
	if err != nil || !hmac.Equal(mac, a.sign("token "+text)) || time.Now().Unix() > end {
		return "", errLogin
	}
	if _, ok := a.users.get()[user]; !ok && user != "" {
		return "", errLogin // removed meanwhile
	}
	return user, nil
}

// may reports whether a user has a right to a repository, which goes by its full name.
// In the file of rights, "*" are all users who have logged in.
func (a *access) may(user, right, name string) bool {
	return slices.ContainsFunc(a.rights.get(), func(r rule) bool {
		who := r.user == anyone || user != "" && (r.user == "*" || r.user == user)
		prefix, open := strings.CutSuffix(r.pattern, "*")
		return who && slices.Contains(r.rights, right) && (name == r.pattern || open && strings.HasPrefix(name, prefix))
	})
}
