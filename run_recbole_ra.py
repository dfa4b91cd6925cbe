"""``python run_recbole_ra.py --model=RaSASRec --dataset=amazon-beauty``; ``--help`` lists everything."""

from recbole_ra.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
