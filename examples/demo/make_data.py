"""Makes weather.csv: a year at twelve invented stations. The same file every time.

Latitude and height set the mean, the day of the year the season, and a random walk the weather. Some values are
missing and a few are broken, as in real files.
"""

import csv
import math
import random
from datetime import date, timedelta
from pathlib import Path

STATIONS = {
    # name: (latitude in degrees, height in metres)
    "Almgrund": (47.2, 1480),
    "Birkfjord": (67.1, 12),
    "Corvaux": (43.6, 55),
    "Dunmarsh": (52.4, 8),
    "Eastholm": (55.1, 20),
    "Ferrada": (37.9, 310),
    "Grauspitz": (46.8, 2570),
    "Hollowbay": (50.2, 15),
    "Isarwald": (48.0, 640),
    "Juniper Point": (60.3, 5),
    "Karsthal": (45.7, 420),
    "Lindosa": (40.1, 90),
}


def year(name: str, latitude: float, height: float, chance: random.Random) -> list[list[object]]:
    """One station's rows: date, station, temperature in degrees Celsius, rain in millimetres, wind in m/s."""
    rows: list[list[object]] = []
    drift = 0.0
    for day in range(365):
        drift = 0.8 * drift + chance.gauss(0, 1.6)
        season = -math.cos(2 * math.pi * (day - 20) / 365)
        temperature = 29 - 0.42 * latitude - 0.0065 * height + (2 + latitude / 6) * season + drift
        rain = max(0.0, chance.gauss(-2, 5)) * (1 + height / 3000)
        wind = chance.weibullvariate(4.5, 2) * (1.4 if height < 30 else 1.0)
        shown: object = f"{temperature:.1f}"
        if chance.random() < 0.004:
            shown = chance.choice(["", "-999", "n/a"])
        rows.append([date(2025, 1, 1) + timedelta(day), name, shown, f"{rain:.1f}", f"{wind:.1f}"])
    return rows


def main() -> None:
    """Write the file beside this one."""
    chance = random.Random(2026)
    with Path(__file__).with_name("weather.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["date", "station", "temperature", "rain", "wind"])
        for name, (latitude, height) in STATIONS.items():
            writer.writerows(year(name, latitude, height, chance))


if __name__ == "__main__":
    main()
