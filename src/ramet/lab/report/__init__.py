"""`ramet lab --html`: all that the lab finds out, as one page that needs nothing else.

gather.py asks the lab, host.py the machine. page.py puts the page together: one file a part (experiments, grid, ways,
refused, container), and what they use: diagram, plot, code, html. style.css and script.js go into the page as they are.
"""
