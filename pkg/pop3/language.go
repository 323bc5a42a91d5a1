package pop3

import "strings"

// lang: RFC 6856 section 3. Alone it lists the languages; with a language range it
// chooses one, for the words of this reply and of all that follow. What machines read,
// response codes and reason codes, is the same in all of them.
func (s *Session) lang(c call) Step {
	if len(c.text) == 0 {
		return s.languages()
	}
	l := lookUp(string(c.text))
	if l == nil {
		return s.err(textNoLanguage)
	}
	s.language = l
	s.out = append(append(append(s.out, "+OK "...), l.tag...), ' ')
	s.out = l.append(s.out, textLanguage, values{})
	return s.done(append(s.out, "\r\n"...), StatusOK)
}

func (s *Session) languages() Step {
	s.first(textLanguages)
	for _, l := range languages {
		s.out = append(append(s.out, l.tag...), ' ')
		s.out = append(append(s.out, l.name...), "\r\n"...)
	}
	return s.done(append(s.out, ".\r\n"...), StatusOK)
}

// lookUp finds the language for a range, as RFC 4647 section 3.4 does it: what is
// special is dropped from the end until something fits. de-CH-1996 gets de.
func lookUp(of string) *language {
	if of == "*" {
		return languages[0]
	}
	for {
		for _, l := range languages {
			if strings.EqualFold(l.tag, of) {
				return l
			}
		}
		i := strings.LastIndexByte(of, '-')
		if i < 0 {
			return nil
		}
		of = of[:i]
	}
}

// utf8Mode: RFC 6856 section 2. Messages are the same octets in both modes: see
// Decisions.
func (s *Session) utf8Mode(call) Step {
	if s.looked {
		return s.err(textUTF8Late)
	}
	return s.ok(textUTF8)
}
