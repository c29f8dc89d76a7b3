"""A headless Chromium, by the DevTools protocol over a pipe: messages are JSON, each ended by a zero byte.

    browser.py PAGE WIDTH [dark] [print] PNG [ANCHOR]     a picture of the page, from ANCHOR on"""
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile


def find():
    """Returns the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    def __init__(self):
        self.profile = tempfile.mkdtemp()
        commands, self.answers = os.pipe(), os.pipe()
        self.write, self.number, self.rest = commands[1], 0, b""
        # The program reads descriptor 3 and writes descriptor 4. Both are moved out of the way first.
        start = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
        options = ["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", start, str(commands[0]), str(self.answers[1]), find(), *options],
                                        pass_fds=(commands[0], self.answers[1]), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        os.close(commands[0])
        os.close(self.answers[1])
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def next_message(self):
        while b"\0" not in self.rest:
            data = os.read(self.answers[0], 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self.rest += data
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        """Calls a method and returns its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next_message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path, width, scheme="light", medium="screen"):
        """Shows a file in a window of this width, as a reader of this colour scheme and medium sees it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url="file://" + os.path.abspath(path))
        while self.next_message().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script):
        """Returns the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.write)
        os.close(self.answers[0])
        shutil.rmtree(self.profile, ignore_errors=True)


def main():
    page, width, *rest = sys.argv[1:]
    names = [word for word in rest if word not in ("dark", "print")]
    browser = Browser()
    browser.open(page, int(width), "dark" if "dark" in rest else "light", "print" if "print" in rest else "screen")
    if len(names) > 1:
        browser.evaluate(f"location.hash = {json.dumps(names[1])}, 0")
    browser.picture(names[0])
    browser.close()


if __name__ == "__main__":
    main()
