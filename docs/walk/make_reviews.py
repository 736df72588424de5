"""Write reviews.csv, snippets of film reviews with the opinion that people read in them.

The ratings lie in the source archive of vaderSentiment (Hutto & Gilbert, 2014): a mean of several
readers from -4 to 4. Snippets rated below 1 in size are left out.
"""

import csv
import tarfile

ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TABLE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

with tarfile.open(ARCHIVE) as outer, tarfile.open(fileobj=outer.extractfile(INNER)) as inner:
    lines = inner.extractfile(TABLE).read().decode("utf-8").splitlines()

with open("reviews.csv", "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
    writer = csv.writer(file)
    writer.writerow(["body", "opinion"])
    for _, rating, text in (line.split("\t") for line in lines):
        if abs(float(rating)) >= 1:
            writer.writerow([text, "good" if float(rating) > 0 else "bad"])
