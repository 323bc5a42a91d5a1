package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
)

// sample is a message that a demo starts with. Its octets never change and it
// carries a Received field, so delivering it again makes no second message.
type sample struct {
	name    string
	message func(to string) []byte
}

// samples are what the first user of each region finds; the others find the
// first one only.
func samples() []sample {
	return []sample{
		{"welcome", welcome},
		{"UTF-8", inUTF8},
		{"attachment", withAttachment},
		{"5 MB", large},
	}
}

const sampleSender = "hello@sender.example"

// head is what all samples begin with. The name makes the Message-ID.
func head(to, name, subject string) string {
	return "Received: from mail.sender.example (mail.sender.example [192.0.2.25])\r\n" +
		"\tby gateway.postern.example with ESMTPS id demo-" + name + "\r\n" +
		"\tfor <" + to + ">; Mon, 2 Nov 2026 09:00:00 +0000\r\n" +
		"From: Postern demo <" + sampleSender + ">\r\n" +
		"To: <" + to + ">\r\n" +
		"Subject: " + subject + "\r\n" +
		"Date: Mon, 2 Nov 2026 09:00:00 +0000\r\n" +
		"Message-ID: <demo-" + name + "." + strings.ReplaceAll(to, "@", ".") + ">\r\n" +
		"MIME-Version: 1.0\r\n"
}

func welcome(to string) []byte {
	return []byte(head(to, "welcome", "Welcome to Postern") +
		"Content-Type: text/plain; charset=us-ascii\r\n\r\n" +
		"This message came in by LMTP and goes out by POP3S.\r\n" +
		".\r\n" +
		"The line above is a single dot, and the next one begins with two:\r\n" +
		"..see?\r\n")
}

func inUTF8(to string) []byte {
	return []byte(head(to, "utf8", "=?UTF-8?Q?Gr=C3=BC=C3=9Fe_aus_Z=C3=BCrich?=") +
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" +
		"Grüße aus Zürich, bonjour de Besançon, γειά από την Αθήνα,\r\n" +
		"こんにちは、東京より。 Sala kahle, eGoli! 📬\r\n")
}

func withAttachment(to string) []byte {
	var table bytes.Buffer
	table.WriteString("region,title\r\n")
	for i := range 40 {
		fmt.Fprintf(&table, "%d,row number %d\r\n", i, i)
	}
	return multipart(to, "attachment", "A message with an attachment", "table.csv", "text/csv", table.Bytes())
}

// large is 5 MB as the listing counts them, give or take a line.
func large(to string) []byte {
	const octets = 5_000_000 / 78 * 57 // 57 octets make a line of 76 and its end
	content := make([]byte, octets)
	rand.NewChaCha8([32]byte([]byte("the same octets on every machine"))).Read(content) //nolint:errcheck // it never fails
	return multipart(to, "large", "5 MB", "noise.bin", "application/octet-stream", content)
}

func multipart(to, name, subject, file, kind string, content []byte) []byte {
	const boundary = "=_postern_demo"
	var b bytes.Buffer
	b.WriteString(head(to, name, subject))
	b.WriteString("Content-Type: multipart/mixed; boundary=\"" + boundary + "\"\r\n\r\n" +
		"--" + boundary + "\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n" +
		"The attachment is " + file + ".\r\n" +
		"--" + boundary + "\r\nContent-Type: " + kind + "; name=\"" + file + "\"\r\n" +
		"Content-Disposition: attachment; filename=\"" + file + "\"\r\n" +
		"Content-Transfer-Encoding: base64\r\n\r\n")
	for line := range chunks(base64.StdEncoding.EncodeToString(content), 76) {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("--" + boundary + "--\r\n")
	return b.Bytes()
}

// chunks yields text in pieces of n octets; the last may be shorter.
func chunks(text string, n int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for len(text) > 0 {
			m := min(n, len(text))
			if !yield(text[:m]) {
				return
			}
			text = text[m:]
		}
	}
}
