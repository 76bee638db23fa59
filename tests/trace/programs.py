"""A Python program to follow: threads, and processes of every kind."""

PYTHON = """
import multiprocessing, os, subprocess, sys, threading

def job():
    subprocess.run(["true"], check=True)

thread = threading.Thread(target=job)
thread.start()
thread.join()
subprocess.run("exit 3", shell=True)
subprocess.run(["/bin/true"], preexec_fn=os.getpid)
pid = os.fork()
if pid == 0:
    os._exit(5)
os.waitpid(pid, 0)
pid = os.posix_spawn("/bin/true", ["true"], {})
os.waitpid(pid, 0)
try:
    os.execv("/nonexistent", ["a b", 'c"d', "\\n"])
except OSError:
    pass
process = multiprocessing.get_context("fork").Process(target=job)
process.start()
process.join()
"""
